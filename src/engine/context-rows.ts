import type { KeptPairs } from '../compression/budget.ts';
import { resolveBudget, resolvePrecision } from '../compression/registry.ts';
import { assert } from '../core/assert.ts';
import type { ContextRecord } from '../core/context.ts';
import { ReadonceError } from '../core/errors.ts';
import { headCount } from '../core/kv-layout.ts';
import type { ContextCache } from '../runtime/runtime.ts';
import type { ContextStore } from '../../storage/context-store.ts';

/**
 * Rows of each head at a ratio: the prefix, and what the budget keeps of the document. Reads the
 * rankings, unless it is the ratio that was stored.
 * @param keepRatio at most the record's
 * @throws ReadonceError `not_found`, `corrupt_record`
 */
export function contextLengths(
  store: ContextStore,
  record: ContextRecord,
  keepRatio: number,
): Uint32Array {
  if (keepRatio === record.compression.keepRatio) return Uint32Array.from(record.pairCounts);
  const counts = resolveBudget(record.compression.budget).prefixCounts({
    layout: record.layout,
    documentTokens: record.document.tokens,
    keepRatio,
    stored: storedPairs(store, record),
  });
  return counts.map((count) => record.prefixTokens + count);
}

function storedPairs(store: ContextStore, record: ContextRecord): KeptPairs {
  const heads = headCount(record.layout);
  const rankings = Array.from({ length: heads }, (_, head) => store.readRanking(record.id, head));
  const counts = Uint32Array.from(rankings, ({ positions }) => positions.length);
  const total = counts.reduce((sum, count) => sum + count, 0);
  const positions = new Uint32Array(total);
  const scores = new Float32Array(total);
  let start = 0;
  for (const ranking of rankings) {
    positions.set(ranking.positions, start);
    scores.set(ranking.scores, start);
    start += ranking.positions.length;
  }
  return { counts, positions, scores };
}

/** Rows `[from, to)` of a head. */
export interface HeadRows {
  readonly head: number;
  readonly from: number;
  readonly to: number;
}

/**
 * Decodes stored rows into `keys` and `values`, `[to − from, headDim]`.
 * @throws ReadonceError `not_found`, `corrupt_record`
 */
export function decodeRows(
  store: ContextStore,
  record: ContextRecord,
  rows: HeadRows,
  target: { readonly keys: Float32Array; readonly values: Float32Array },
): void {
  const precision = resolvePrecision(record.compression.precision);
  const { headDim } = record.layout;
  let row = 0;
  const { head, from, to } = rows;
  for (const piece of store.readPairs(record.id, head, { from, to })) {
    const [start, end] = [row * headDim, (row + piece.rows) * headDim];
    precision.decode(piece.keys, target.keys.subarray(start, end), headDim);
    precision.decode(piece.values, target.values.subarray(start, end), headDim);
    row += piece.rows;
  }
  assert(row === to - from, `expected the rows [${from}, ${to}) but got ${row}`);
}

/**
 * Reads each head's rows behind the first `from[head]` (default: all) into a cache that has room.
 * @throws ReadonceError `not_found`, `corrupt_record`, `conflict` (deleted or replaced meanwhile)
 */
export function fillRows(
  store: ContextStore,
  record: ContextRecord,
  { cache, from }: { readonly cache: ContextCache; readonly from: Uint32Array | undefined },
): void {
  const { headDim } = record.layout;
  let hasRead = false;
  for (const [head, to] of cache.lengths.entries()) {
    const first = from?.[head] ?? 0;
    if (first >= to) continue;
    hasRead = true;
    decodeRows(
      store,
      record,
      { head, from: first, to },
      {
        keys: cache.keys(head).subarray(first * headDim),
        values: cache.values(head).subarray(first * headDim),
      },
    );
  }
  if (hasRead) requireUnchanged(store, record);
}

/** Copies a cache's rows to the beginning of each head of a larger one. */
export function copyRows(from: ContextCache, to: ContextCache): void {
  for (const [head, rows] of from.lengths.entries()) {
    if (rows === 0) continue;
    to.keys(head).set(from.keys(head));
    to.values(head).set(from.values(head));
  }
}

/**
 * Fails if a context is not the one any more that `record` was read from: deleted, or deleted and
 * ingested again. Call after reading rows or rankings that belong together.
 * @throws ReadonceError `conflict`
 */
export function requireUnchanged(store: ContextStore, record: ContextRecord): void {
  if (store.get(record.id)?.record.createdAtMs === record.createdAtMs) return;
  throw new ReadonceError(
    'conflict',
    `Expected ${record.id} to stay as it is while it was read but it was deleted or replaced: ` +
      'try again',
    { details: { id: record.id }, retryAfterSeconds: 1 },
  );
}
