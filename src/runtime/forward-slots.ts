import { assert } from '../core/assert.ts';
import { firstTokens, type ForwardSlot } from './runtime.ts';

/** Checks that slots may be computed together, as `Runtime.forward` says. */
export function checkTogether(slots: readonly ForwardSlot[]): void {
  assert(slots.length > 0, 'expected at least one slot');
  assert(new Set(slots.map(({ tail }) => tail)).size === slots.length, 'expected distinct tails');
  for (const { ids } of slots) assert(ids.length > 0, 'expected at least one token a slot');
  const isStep = slots.every(({ tail, ids }) => tail.length > 0 && ids.length === 1);
  const begins = slots.every(({ tail, ids }) => tail.length === 0 && ids.length <= firstTokens);
  assert(slots.length === 1 || isStep || begins, 'expected a step, first tokens, or one slot');
}

/**
 * Appends to the tails of all slots or to none: rows that `compute` had appended when it failed are
 * forgotten.
 */
export function appendTogether<T>(slots: readonly ForwardSlot[], compute: () => T): T {
  const before = slots.map(({ tail }) => tail.length);
  try {
    return compute();
  } catch (error) {
    for (const [i, { tail }] of slots.entries()) {
      const length = before[i] ?? 0;
      if (tail.length > length) tail.truncate(length);
    }
    throw error;
  }
}
