import type { KvLayout } from '../../core/kv-layout.ts';
import { firstTokens } from '../runtime.ts';
import { mostUnits } from './unit-slots.ts';
import { mostUnitQueries } from './units.ts';

/** Most slots of a call: a tail and a context each are units. */
export const mostSlots = mostUnits / 2;

/** Tokens of a call of questions, padding included; a longer question is computed in several. */
export const questionTokens = firstTokens;

/** What tells a step from a question, whatever else is computed. */
export interface Tokens {
  readonly ids: Int32Array;
  readonly tail: { readonly length: number };
}

/** Whether a slot goes on with an answer. */
export function isStep({ ids, tail }: Tokens): boolean {
  return ids.length === 1 && tail.length > 0;
}

/** Most tokens of a call of one slot, whose units must have places, too. */
export function mostSlotTokens(layout: KvLayout): number {
  return Math.min(questionTokens, mostSlots * mostUnitQueries(layout));
}

/**
 * Slots in calls that are not too large, in order: all of them steps, or questions. None has more
 * than `mostSlotTokens`.
 */
export function* callsOf<S extends { readonly ids: Int32Array }>(
  slots: readonly S[],
  layout: KvLayout,
): Generator<readonly S[]> {
  let together: S[] = [];
  let [tokens, units] = [0, 0];
  for (const slot of slots) {
    // Of its tail, and as many at most of its context; slots on one context need fewer.
    const own = 2 * Math.ceil(slot.ids.length / mostUnitQueries(layout));
    if (tokens + slot.ids.length > questionTokens || units + own > mostUnits) {
      yield together;
      [together, tokens, units] = [[], 0, 0];
    }
    together.push(slot);
    tokens += slot.ids.length;
    units += own;
  }
  yield together;
}
