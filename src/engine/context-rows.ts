import type { KeptPairs } from '../compression/budget.ts';
import { resolveBudget } from '../compression/registry.ts';
import type { ContextRecord } from '../core/context.ts';
import { ReadonceError } from '../core/errors.ts';
import { headCount } from '../core/kv-layout.ts';
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
 * Fails if a context is not the one any more that `record` was read from: deleted, or deleted and
 * ingested again. Call after reading rows or rankings that belong together.
 * @throws ReadonceError `conflict`
 */
export function requireUnchanged(store: ContextStore, record: ContextRecord): void {
  if (store.get(record.id)?.record.createdAtMs === record.createdAtMs) return;
  throw changed(record.id);
}

/** What a query is told whose context went while it was read. */
export function changed(id: string): ReadonceError {
  return new ReadonceError(
    'conflict',
    `Expected ${id} to stay as it is while it was read but it was deleted or replaced: try again`,
    { details: { id }, retryAfterSeconds: 1 },
  );
}
