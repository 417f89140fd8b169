import { resolvePrecision } from '../compression/registry.ts';
import { assert } from '../core/assert.ts';
import type { Clock } from '../core/clock.ts';
import type { ContextRecord, StoredContext } from '../core/context.ts';
import { ReadonceError } from '../core/errors.ts';
import type { Checkpoint } from '../model/checkpoint.ts';
import type { ContextStore, HeadPairs } from '../../storage/context-store.ts';
import { contextLengths, requireUnchanged } from './context-rows.ts';
import { contextWrite } from './context-write.ts';
import { sameTokens, type TokenizedDocument } from './document.ts';
import type { IngestCall } from './ingest.ts';

/** What all derivations of an engine share. */
export interface DeriveDependencies {
  readonly checkpoint: Checkpoint;
  readonly store: ContextStore;
  readonly clock: Clock;
  /** Hears of a stored context that could not be derived from. */
  readonly onUnusable: (contextId: string, error: ReadonceError) => void;
}

/**
 * Makes a context from a stored one that has all its pairs: of the same family, kept at no smaller
 * keepRatio and stored in no coarser precision. The model does not run; what is stored is, byte for
 * byte, what an ingestion would store, but for the timings. Costs reading the pairs and writing
 * them. Undefined if there is none to derive from, or none that can be read.
 * @throws ReadonceError `storage_full`, `unsupported` (values that the precision cannot hold); the
 * signal's reason
 */
export async function derive(
  dependencies: DeriveDependencies,
  call: IngestCall,
): Promise<StoredContext | undefined> {
  for (const { record } of sources(dependencies.store, call)) {
    try {
      return await deriveFrom(record, dependencies, call);
    } catch (error) {
      if (!(error instanceof ReadonceError) || !sourceErrors.has(error.code)) throw error;
      dependencies.onUnusable(record.id, error);
    }
  }
  return undefined;
}

/** The source is damaged; it was removed, or replaced, while it was read. */
const sourceErrors: ReadonlySet<string> = new Set(['corrupt_record', 'not_found', 'conflict']);

/** The owner's contexts that have all pairs of a document's, the smallest first. */
function sources(store: ContextStore, { request, document }: IngestCall): readonly StoredContext[] {
  const { keepRatio, precision } = document.compression;
  const finer = new Set([precision, ...resolvePrecision(precision).exactFrom]);
  return store
    .family(document.family)
    .filter(({ record }) => {
      const { compression } = record;
      const holdsAll = compression.keepRatio >= keepRatio && finer.has(compression.precision);
      return holdsAll && record.id !== document.id && record.tenant === request.tenant;
    })
    .toSorted((a, b) => a.storedBytes - b.storedBytes);
}

async function deriveFrom(
  source: ContextRecord,
  { checkpoint, store, clock }: DeriveDependencies,
  { request, document, onProgress, signal }: IngestCall,
): Promise<StoredContext> {
  const startMs = clock.monotonicMs();
  if (!sameTokens(store.tokenIds(source.id), document)) {
    throw new ReadonceError(
      'corrupt_record',
      `Expected the token ids of its family in ${source.id} but got others`,
      { details: { id: source.id, reason: 'token ids of another document' } },
    );
  }
  // Room for the new context is made by removing those that were not used lately.
  store.touch(source.id, clock.nowMs());
  const lengths = contextLengths(store, source, document.compression.keepRatio);
  const persistStartMs = clock.monotonicMs();
  const write = contextWrite(
    { checkpoint, clock },
    {
      request,
      document,
      lengths,
      pairs: (head) => derivedPairs(store, source, { document, head, rows: lengths[head] ?? 0 }),
      ranking: (head) => {
        const { positions, scores } = store.readRanking(source.id, head);
        const count = (lengths[head] ?? 0) - source.prefixTokens;
        return { positions: positions.subarray(0, count), scores: scores.subarray(0, count) };
      },
      timings: (nowMs) => {
        // Everything was read by now: it must have been of one context.
        requireUnchanged(store, source);
        const [persistMs, totalMs] = [nowMs - persistStartMs, nowMs - startMs];
        return { prefillMs: 0, scoreMs: 0, persistMs, totalMs };
      },
      onProgress,
    },
  );
  return store.write(write, signal);
}

/** The first rows of a head in the document's precision. */
function derivedPairs(
  store: ContextStore,
  source: ContextRecord,
  { document, head, rows }: { document: TokenizedDocument; head: number; rows: number },
): HeadPairs {
  const precision = resolvePrecision(document.compression.precision);
  const { headDim } = source.layout;
  const encoded = (): Uint8Array => new Uint8Array(precision.encodedBytes(rows, headDim));
  const [keys, values] = [encoded(), encoded()];
  if (source.compression.precision === precision.name) {
    let end = 0;
    for (const piece of store.readPairs(source.id, head, { to: rows })) {
      keys.set(piece.keys, end);
      values.set(piece.values, end);
      end += piece.keys.byteLength;
    }
    return { rows, keys, values };
  }
  const exact = readRows(store, source, { head, rows });
  precision.encode(exact.keys, keys, headDim);
  precision.encode(exact.values, values, headDim);
  return { rows, keys, values };
}

/** The first rows of a head as numbers, `[rows, headDim]`. */
function readRows(
  store: ContextStore,
  { id, compression, layout: { headDim } }: ContextRecord,
  { head, rows }: { readonly head: number; readonly rows: number },
): { readonly keys: Float32Array; readonly values: Float32Array } {
  const precision = resolvePrecision(compression.precision);
  const keys = new Float32Array(rows * headDim);
  const values = new Float32Array(rows * headDim);
  let end = 0;
  for (const piece of store.readPairs(id, head, { to: rows })) {
    const start = end;
    end += piece.rows * headDim;
    precision.decode(piece.keys, keys.subarray(start, end), headDim);
    precision.decode(piece.values, values.subarray(start, end), headDim);
  }
  assert(end === keys.length, `expected ${rows} rows but got ${end / headDim}`);
  return { keys, values };
}
