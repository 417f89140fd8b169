import { createRandom } from '../src/core/random.ts';
import type { ContextWrite } from '../storage/context-store.ts';

/** What a context for measurements is like. */
export interface BenchShape {
  readonly layers: number;
  readonly kvHeads: number;
  /** Of an encoded key, and of a value. */
  readonly rowBytes: number;
  /** Of all keys and values, about. */
  readonly bytes: number;
}

const prefixTokens = 8;

/** The id of the context that `number` makes. */
export function benchId(number: number): string {
  return `ctx_${number.toString(16).padStart(40, '0')}`;
}

/** Bytes of all keys and values of a shape. */
export function pairsBytes(shape: BenchShape): number {
  return pairCounts(shape).reduce((sum, pairs) => sum + pairs * 2 * shape.rowBytes, 0);
}

/** Heads keep between half and one and a half of the average, as after compression. */
function pairCounts({ layers, kvHeads, rowBytes, bytes }: BenchShape): readonly number[] {
  const heads = layers * kvHeads;
  const average = bytes / (heads * 2 * rowBytes);
  return Array.from({ length: heads }, (_, head) => {
    const share = 0.5 + (heads === 1 ? 0.5 : head / (heads - 1));
    return Math.max(prefixTokens, Math.round(average * share));
  });
}

/** Noise that every head takes its bytes from. */
let noise = new Uint8Array(0);

function noiseOf(byteLength: number): Uint8Array {
  if (noise.byteLength < byteLength) {
    const random = createRandom(1);
    const words = Uint32Array.from({ length: Math.ceil(byteLength / 4) }, () =>
      random.nextUint32(),
    );
    noise = new Uint8Array(words.buffer);
  }
  return noise.subarray(0, byteLength);
}

/** A context of noise, ready to be written; making its pairs costs nothing. */
export function benchContext(number: number, shape: BenchShape) {
  const { layers, kvHeads, rowBytes } = shape;
  const counts = pairCounts(shape);
  const documentTokens = Math.max(1, Math.max(...counts) - prefixTokens);
  const createdAtMs = Date.now();
  const timings = { prefillMs: 0, scoreMs: 0, persistMs: 0, totalMs: 0 };
  noiseOf(Math.max(...counts) * rowBytes);
  const positions = Uint32Array.from({ length: documentTokens }, (_, i) => i);
  const scores = new Float32Array(documentTokens);
  return {
    record: {
      id: benchId(number),
      family: `fam_${number.toString(16).padStart(40, '0')}`,
      tenant: '',
      model: { id: 'noise', fingerprint: 'sha256:00' },
      document: { bytes: documentTokens, tokens: documentTokens, sha256: '00' },
      compression: { method: 'kvzip', keepRatio: 0.3, budget: 'global', precision: 'f16' },
      methodVersion: 1,
      chunkTokens: 2000,
      fidelity: null,
      layout: { layers, kvHeads, group: 3, headDim: rowBytes / 2 },
      prefixTokens,
      pairCounts: counts,
      createdAtMs,
    },
    usage: { lastUsedAtMs: createdAtMs, expiresAtMs: null, pinned: false, labels: {} },
    prefixIds: new Int32Array(prefixTokens),
    documentIds: new Int32Array(documentTokens),
    timings: () => timings,
    encodedBytes: (rows: number) => rows * rowBytes,
    pairs: (head: number) => {
      const rows = counts[head] ?? 0;
      const bytes = noiseOf(rows * rowBytes);
      return { rows, keys: bytes, values: bytes };
    },
    ranking: (head: number) => {
      const rows = (counts[head] ?? 0) - prefixTokens;
      return { positions: positions.subarray(0, rows), scores: scores.subarray(0, rows) };
    },
  } satisfies ContextWrite;
}
