import { assert } from '../../core/assert.ts';
import { headCount } from '../../core/kv-layout.ts';
import { budgetOf } from '../budget.ts';
import { bestIndices, checkScores, keptCount, keptPairs } from './selection.ts';

/**
 * The best `round(keepRatio · n)` pairs of each head, ties by position. For scores that cannot be
 * compared between heads, and as the even-handed baseline to `global`.
 */
export const uniformBudget = budgetOf({
  name: 'uniform',
  description: 'The same number of pairs in every head.',
  *choose(scores, layout, keepRatio) {
    const heads = headCount(layout);
    const tokens = yield* checkScores(scores, heads);
    const count = keptCount(tokens, keepRatio);
    const kept = new Uint32Array(heads * count);
    for (let head = 0; head < heads; head++) {
      const start = head * tokens;
      const best = yield* bestIndices(scores.subarray(start, start + tokens), count);
      for (let rank = 0; rank < count; rank++) {
        kept[head * count + rank] = start + (best[rank] as number);
      }
    }
    return yield* keptPairs(scores, heads, kept);
  },
  prefixCounts({ layout, documentTokens, keepRatio, stored }) {
    const count = keptCount(documentTokens, keepRatio);
    const heads = headCount(layout);
    assert(
      stored.counts.length === heads && stored.counts.every((kept) => kept >= count),
      `expected at least ${count} stored pairs in each of ${heads} heads`,
    );
    return new Uint32Array(heads).fill(count);
  },
  couldKeep({ counts, documentTokens, keepRatio }) {
    return counts.every((count) => count === keptCount(documentTokens, keepRatio));
  },
});
