import { assert } from '../../core/assert.ts';
import { headCount } from '../../core/kv-layout.ts';
import { atOnce } from '../../core/piecewise.ts';
import { budgetOf } from '../budget.ts';
import { bestIndices, checkScores, keptCount, keptPairs } from './selection.ts';

/**
 * The best `round(keepRatio · L · H · n)` pairs of all layers and heads together, ties by (layer,
 * head, position): KVzip's pair-level budget (arXiv 2505.23416, section 3). A head may keep
 * nothing of the document and another all of it, so scores must be comparable between heads.
 *
 * Deviation: the authors' code drops ties at the threshold; here the count is exact.
 */
export const globalBudget = budgetOf({
  name: 'global',
  description: 'The best pairs of all layers and heads together.',
  *choose(scores, layout, keepRatio) {
    const heads = headCount(layout);
    yield* checkScores(scores, heads);
    const kept = yield* bestIndices(scores, keptCount(scores.length, keepRatio));
    return yield* keptPairs(scores, heads, kept);
  },
  prefixCounts({ layout, documentTokens, keepRatio, stored }) {
    const heads = headCount(layout);
    assert(stored.counts.length === heads, `expected ${heads} heads`);
    // Stored order is that of the tie rule: heads ascending, equal scores by ascending position.
    const count = keptCount(heads * documentTokens, keepRatio);
    const kept = atOnce(bestIndices(stored.scores, count));
    const counts = new Uint32Array(heads);
    let storedEnd = 0;
    let next = 0;
    for (let head = 0; head < heads; head++) {
      storedEnd += stored.counts[head] as number;
      const start = next;
      while (next < kept.length && (kept[next] as number) < storedEnd) next++;
      counts[head] = next - start;
    }
    return counts;
  },
  couldKeep({ counts, documentTokens, keepRatio }) {
    const kept = counts.reduce((sum, count) => sum + count, 0);
    return kept === keptCount(counts.length * documentTokens, keepRatio);
  },
});
