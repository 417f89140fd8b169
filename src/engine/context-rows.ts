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

/**
 * Reads each head's rows behind the first `from[head]` (default: all) into a cache that has room.
 * @throws ReadonceError `not_found`, `corrupt_record`, `conflict` (deleted or replaced meanwhile)
 */
export function fillRows(
  store: ContextStore,
  record: ContextRecord,
  { cache, from }: { readonly cache: ContextCache; readonly from: Uint32Array | undefined },
): void {
  const precision = resolvePrecision(record.compression.precision);
  const ranges = Array.from(cache.lengths, (to, head) => ({ head, from: from?.[head] ?? 0, to }));
  const missing = ranges.filter((range) => range.from < range.to);
  if (missing.length === 0) return;
  let rows = 0;
  store.readRows(record.id, missing, (piece) => {
    cache.write(piece.head, piece.firstRow, piece, precision);
    rows += piece.rows;
  });
  const expected = missing.reduce((sum, range) => sum + range.to - range.from, 0);
  assert(rows === expected, `expected ${expected} rows but got ${rows}`);
  requireUnchanged(store, record);
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
