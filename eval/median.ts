import { assert } from '../src/core/assert.ts';

/** The middle value, the mean of the two middle ones of an even number. At least one value. */
export function median(values: readonly number[]): number {
  assert(values.length > 0, 'expected at least one value for a median');
  const sorted = values.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] as number;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] as number) + upper) / 2;
}
