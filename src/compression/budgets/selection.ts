import { assert } from '../../core/assert.ts';
import type { Piecewise } from '../../core/piecewise.ts';
import type { KeptPairs } from '../budget.ts';
import { bestFirst, bitsOf, orderOf, pieceScores, sortMemory, thresholdOf } from './score-order.ts';

/**
 * Pairs kept out of `total`: `round(keepRatio · total)`, halves up.
 * @param keepRatio (0, 1]
 */
export function keptCount(total: number, keepRatio: number): number {
  assert(keepRatio > 0 && keepRatio <= 1, `expected a keepRatio in (0, 1] but got ${keepRatio}`);
  return Math.round(keepRatio * total);
}

/** Checks that `scores` are `[heads, n]` and finite; returns n. */
export function* checkScores(scores: Float32Array, heads: number): Piecewise<number> {
  const tokens = scores.length / heads;
  assert(Number.isInteger(tokens), `expected scores of ${heads} heads but got ${scores.length}`);
  const bits = bitsOf(scores);
  for (let start = 0; start < bits.length; start += pieceScores) {
    const broken = firstBroken(bits, start, Math.min(start + pieceScores, bits.length));
    assert(broken < 0, `expected finite scores but got ${scores[broken]} at ${broken}`);
    yield;
  }
  return tokens;
}

/** Of the numbers that are not finite all bits of the exponent are set. */
const exponentBits = 0x7f800000;

function firstBroken(bits: Int32Array, start: number, end: number): number {
  for (let i = start; i < end; i++) {
    if (((bits[i] as number) & exponentBits) === exponentBits) return i;
  }
  return -1;
}

/**
 * Indices of the `count` highest scores, ascending; of equal scores the lowest indices are taken,
 * so that the count is exact. Counts digits of the scores' bits: about 20 ns a score.
 */
export function* bestIndices(scores: Float32Array, count: number): Piecewise<Uint32Array> {
  assert(count <= scores.length, `expected ${count} scores but got ${scores.length}`);
  const best = new Uint32Array(count);
  if (count === 0) return best;
  const bits = bitsOf(scores);
  const threshold = yield* thresholdOf(bits, count);
  let filled = 0;
  let { ties } = threshold;
  for (let start = 0; start < bits.length; start += pieceScores) {
    const end = Math.min(start + pieceScores, bits.length);
    for (let i = start; i < end; i++) {
      const order = orderOf(bits[i] as number);
      if (order > threshold.order || (order === threshold.order && ties-- <= 0)) continue;
      best[filled++] = i;
    }
    yield;
  }
  return best;
}

/** Pairs sorted in one piece, unless a head has more: about three milliseconds. */
const piecePairs = 2 ** 15;

/**
 * Kept pairs from indices into `scores`, `[heads, n]`.
 * @param kept ascending, as `bestIndices` returns them.
 */
export function* keptPairs(
  scores: Float32Array,
  heads: number,
  kept: Uint32Array,
): Piecewise<KeptPairs> {
  const tokens = scores.length / heads;
  const counts = countsOf(kept, heads, tokens);
  yield;
  const positions = new Uint32Array(kept.length);
  const keptScores = new Float32Array(kept.length);
  const bits = bitsOf(scores);
  const memory = sortMemory(Math.max(...counts));
  let start = 0;
  let yieldedAt = 0;
  for (const [head, count] of counts.entries()) {
    const sorted = bestFirst(bits, kept.subarray(start, start + count), memory);
    for (let i = 0; i < count; i++) {
      const index = sorted[i] as number;
      positions[start + i] = index - head * tokens;
      keptScores[start + i] = scores[index] as number;
    }
    start += count;
    if (start - yieldedAt < piecePairs) continue;
    yieldedAt = start;
    yield;
  }
  return { counts, positions, scores: keptScores };
}

/** How many of ascending indices each head has. */
function countsOf(kept: Uint32Array, heads: number, tokens: number): Uint32Array {
  const counts = new Uint32Array(heads);
  let start = 0;
  for (let head = 0; head < heads; head++) {
    let end = start;
    while (end < kept.length && (kept[end] as number) < (head + 1) * tokens) end++;
    counts[head] = end - start;
    start = end;
  }
  return counts;
}
