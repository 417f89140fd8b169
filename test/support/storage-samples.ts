import { createHash } from 'node:crypto';
import { createRandom } from '../../src/core/random.ts';
import type { ContextRecord, ContextUsage } from '../../src/core/context.ts';
import type {
  ContextStore,
  ContextWrite,
  HeadPairs,
  HeadRanking,
  RowRange,
} from '../../storage/context-store.ts';

/** What a sample context is like; everything not given is small. */
export interface SampleOptions {
  /** Makes the id and all bytes. */
  readonly seed: number;
  readonly layers?: number;
  readonly kvHeads?: number;
  readonly rowBytes?: number;
  readonly prefixTokens?: number;
  /** Document pairs kept by each head; repeated over the heads. */
  readonly kept?: readonly number[];
  readonly precision?: string;
  readonly tenant?: string;
  readonly fingerprint?: string;
  readonly createdAtMs?: number;
  readonly usage?: Partial<ContextUsage>;
}

export interface Sample extends ContextWrite {
  readonly record: ContextRecord;
}

export function sampleId(seed: number): string {
  return `ctx_${seed.toString(16).padStart(40, '0')}`;
}

export function sampleFamily(seed: number): string {
  return `fam_${seed.toString(16).padStart(40, '0')}`;
}

/** A context whose bytes are noise, the same at each call. */
export function sampleContext(options: SampleOptions): Sample {
  const { seed, layers = 2, kvHeads = 2, rowBytes = 16, prefixTokens = 3 } = options;
  const { kept = [5, 0, 2], createdAtMs = 1_700_000_000_000 } = options;
  const heads = layers * kvHeads;
  const keptCounts = Array.from({ length: heads }, (_, head) => kept[head % kept.length] ?? 0);
  const documentTokens = Math.max(1, ...keptCounts);
  const timings = { prefillMs: 1.5, scoreMs: 2.5, persistMs: 0.25, totalMs: 5 };
  const noise = (length: number, part: number): Uint8Array => {
    const random = createRandom(seed * 1000 + part);
    const words = Uint32Array.from({ length: Math.ceil(length / 4) }, () => random.nextUint32());
    return new Uint8Array(words.buffer, 0, length);
  };
  return {
    record: {
      id: sampleId(seed),
      family: sampleFamily(seed),
      tenant: options.tenant ?? '',
      model: { id: 'reader-mini', fingerprint: options.fingerprint ?? 'sha256:00' },
      document: { bytes: 100, tokens: documentTokens, sha256: '00' },
      compression: {
        method: 'kvzip',
        keepRatio: 0.3,
        budget: 'global',
        precision: options.precision ?? 'f16',
      },
      methodVersion: 1,
      chunkTokens: 2000,
      fidelity: null,
      layout: { layers, kvHeads, group: 2, headDim: 8 },
      prefixTokens,
      pairCounts: keptCounts.map((count) => prefixTokens + count),
      timings,
      createdAtMs,
    },
    usage: {
      lastUsedAtMs: createdAtMs,
      expiresAtMs: null,
      pinned: false,
      labels: {},
      ...options.usage,
    },
    prefixIds: Int32Array.from({ length: prefixTokens }, (_, i) => seed + i),
    documentIds: Int32Array.from({ length: documentTokens }, (_, i) => 7 * i - 3),
    timings: () => timings,
    encodedBytes: (rows) => rows * rowBytes,
    pairs: (head): HeadPairs => {
      const rows = prefixTokens + (keptCounts[head] ?? 0);
      return {
        rows,
        keys: noise(rows * rowBytes, 2 * head),
        values: noise(rows * rowBytes, 2 * head + 1),
      };
    },
    ranking: (head): HeadRanking => {
      const count = keptCounts[head] ?? 0;
      return {
        positions: Uint32Array.from({ length: count }, (_, i) => count - 1 - i),
        scores: Float32Array.from({ length: count }, (_, i) => 1 / (1 + i + head)),
      };
    },
  };
}

/** A head's pairs as digests: comparing megabytes byte by byte takes a test runner minutes. */
export interface PairDigests {
  readonly rows: number;
  readonly keys: string;
  readonly values: string;
}

/** Rows [from, to) of a head (default all). */
export function collectPairs(
  store: ContextStore,
  options: { readonly id: string; readonly head: number } & RowRange,
): PairDigests {
  const [keys, values] = [createHash('sha256'), createHash('sha256')];
  let rows = 0;
  for (const piece of store.readPairs(options.id, options.head, options)) {
    keys.update(piece.keys);
    values.update(piece.values);
    rows += piece.rows;
  }
  return { rows, keys: keys.digest('hex'), values: values.digest('hex') };
}

/** What `collectPairs` must give of a sample's pairs. */
export function expectedPairs(sample: Sample, head: number, range: RowRange = {}): PairDigests {
  const pairs = sample.pairs(head);
  const { from = 0, to = pairs.rows } = range;
  const digest = (bytes: Uint8Array): string =>
    createHash('sha256')
      .update(bytes.subarray(sample.encodedBytes(from), sample.encodedBytes(to)))
      .digest('hex');
  return { rows: to - from, keys: digest(pairs.keys), values: digest(pairs.values) };
}

/** Everything the store holds of a context, read and verified. */
export function readWhole(store: ContextStore, sample: Sample) {
  const { id, pairCounts } = sample.record;
  return {
    stored: store.get(id),
    tokens: store.tokenIds(id),
    heads: pairCounts.map((_, head) => collectPairs(store, { id, head })),
    rankings: pairCounts.map((_, head) => store.readRanking(id, head)),
  };
}

/** What `readWhole` must give, but for the record. */
export function expectedContent(sample: Sample) {
  const { pairCounts } = sample.record;
  return {
    tokens: { prefixIds: sample.prefixIds, documentIds: sample.documentIds },
    heads: pairCounts.map((_, head) => expectedPairs(sample, head)),
    rankings: pairCounts.map((_, head) => sample.ranking(head)),
  };
}

/** Three heads of 8.6 MB: more than one transaction holds. */
export function largeSample(seed: number): Sample {
  return sampleContext({ seed, layers: 1, kvHeads: 3, rowBytes: 1024, kept: [4200] });
}
