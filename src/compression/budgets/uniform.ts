import { assert } from '../../core/assert.ts';
import { headCount } from '../../core/kv-layout.ts';
import type { Budget } from '../budget.ts';
import { bestIndices, checkScores, keptCount, keptPairs } from './selection.ts';

/**
 * The best `round(keepRatio · n)` pairs of each head, ties by position. For scores that cannot be
 * compared between heads, and as the even-handed baseline to `global`.
 */
export const uniformBudget: Budget = {
  name: 'uniform',
  description: 'The same number of pairs in every head.',
  select(scores, layout, keepRatio) {
    const heads = headCount(layout);
    const tokens = checkScores(scores, heads);
    const count = keptCount(tokens, keepRatio);
    const kept = new Uint32Array(heads * count);
    for (let head = 0; head < heads; head++) {
      const start = head * tokens;
      const best = bestIndices(scores.subarray(start, start + tokens), count);
      kept.set(
        best.map((position) => start + position),
        head * count,
      );
    }
    return keptPairs(scores, heads, kept);
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
};
