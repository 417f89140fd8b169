import { createRandom } from '../../../src/core/random.ts';
import { headCount, type KvLayout } from '../../../src/core/kv-layout.ts';

/** Random token ids; the same for the same seed. */
export function randomIds(count: number, vocabSize: number, seed: number): Int32Array {
  const random = createRandom(seed);
  return Int32Array.from({ length: count }, () => Math.floor(random.next() * vocabSize));
}

/**
 * Rows of each head, `[layers · kvHeads]`: all of them at 1; below, ragged as after compression,
 * each head 0.2 to 1.8 of the mean, which is exact.
 */
export function raggedLengths(
  layout: KvLayout,
  { tokens, keepRatio, seed }: { tokens: number; keepRatio: number; seed: number },
): Uint32Array {
  const heads = headCount(layout);
  if (keepRatio === 1) return new Uint32Array(heads).fill(tokens);
  const random = createRandom(seed);
  const shares = Array.from({ length: heads }, () => 0.2 + 1.6 * random.next());
  const mean = shares.reduce((sum, share) => sum + share, 0) / heads;
  return Uint32Array.from(shares, (share) =>
    Math.min(tokens, Math.round((tokens * keepRatio * share) / mean)),
  );
}

/** Rows of all heads. */
export function totalRows(lengths: Iterable<number>): number {
  let sum = 0;
  for (const length of lengths) sum += length;
  return sum;
}
