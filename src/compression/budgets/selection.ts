import { assert } from '../../core/assert.ts';
import type { KeptPairs } from '../budget.ts';

/**
 * Pairs kept out of `total`: `round(keepRatio · total)`, halves up.
 * @param keepRatio (0, 1]
 */
export function keptCount(total: number, keepRatio: number): number {
  assert(keepRatio > 0 && keepRatio <= 1, `expected a keepRatio in (0, 1] but got ${keepRatio}`);
  return Math.round(keepRatio * total);
}

/** Checks that `scores` are `[heads, n]` and finite; returns n. */
export function checkScores(scores: Float32Array, heads: number): number {
  const tokens = scores.length / heads;
  assert(Number.isInteger(tokens), `expected scores of ${heads} heads but got ${scores.length}`);
  const broken = scores.findIndex((score) => !Number.isFinite(score));
  assert(broken < 0, `expected finite scores but got ${scores[broken]} at ${broken}`);
  return tokens;
}

/**
 * Indices of the `count` highest scores, ascending; of equal scores the lowest indices are taken,
 * so that the count is exact. O(n log n) in native code: 720,000 scores take under 0.1 s.
 */
export function bestIndices(scores: Float32Array, count: number): Uint32Array {
  assert(count <= scores.length, `expected ${count} scores but got ${scores.length}`);
  const best = new Uint32Array(count);
  if (count === 0) return best;
  const threshold = scores.toSorted()[scores.length - count] as number;
  let ties = count;
  for (const score of scores) if (score > threshold) ties--;
  let filled = 0;
  for (let i = 0; i < scores.length; i++) {
    const score = scores[i] as number;
    if (score < threshold || (score === threshold && ties-- <= 0)) continue;
    best[filled++] = i;
  }
  return best;
}

/**
 * Kept pairs from indices into `scores`, `[heads, n]`.
 * @param kept ascending, as `bestIndices` returns them.
 */
export function keptPairs(scores: Float32Array, heads: number, kept: Uint32Array): KeptPairs {
  const tokens = scores.length / heads;
  const counts = new Uint32Array(heads);
  const positions = new Uint32Array(kept.length);
  const keptScores = new Float32Array(kept.length);
  let start = 0;
  for (let head = 0; head < heads; head++) {
    let end = start;
    while (end < kept.length && (kept[end] as number) < (head + 1) * tokens) end++;
    const indices = kept.slice(start, end);
    indices.sort((a, b) => (scores[b] as number) - (scores[a] as number) || a - b);
    counts[head] = indices.length;
    for (const index of indices) {
      positions[start] = index - head * tokens;
      keptScores[start] = scores[index] as number;
      start++;
    }
  }
  return { counts, positions, scores: keptScores };
}
