import { describe, expect, it } from 'vitest';
import { callsOf, isStep, mostSlotTokens } from '../../src/runtime/cuda/calls.ts';

function layout(group: number) {
  return { layers: 1, kvHeads: 1, group, headDim: 64 };
}

/** Tokens of each slot, by call. */
function calls(tokens: readonly number[], group: number): readonly (readonly number[])[] {
  const slots = tokens.map((count) => ({ ids: new Int32Array(count) }));
  return [...callsOf(slots, layout(group))].map((call) => call.map(({ ids }) => ids.length));
}

function repeated(count: number, value: number): readonly number[] {
  return Array.from({ length: count }, () => value);
}

describe('calls of slots', () => {
  it('have 32 slots of a token at most', () => {
    const sizes = calls(repeated(70, 1), 7).map(({ length }) => length);
    expect(sizes).toEqual([32, 32, 6]);
  });

  it('have 64 tokens at most', () => {
    expect(calls([30, 34, 1, 64], 1)).toEqual([[30, 34], [1], [64]]);
  });

  it('have no more units than there are places for, each slot on a context of its own', () => {
    // 3 tokens at group 64 are two units of a tail and two of a context.
    const sizes = calls(repeated(20, 3), 64).map(({ length }) => length);
    expect(sizes).toEqual([16, 4]);
  });

  it.each([
    [1, 64],
    [7, 64],
    [64, 64],
    [128, 32],
  ])('of one slot at group %i have %i tokens at most', (group, most) => {
    expect(mostSlotTokens(layout(group))).toBe(most);
    expect(calls([most, most], group)).toEqual([[most], [most]]);
  });

  it('are steps where an answer goes on, whatever the others are', () => {
    const slot = (tokens: number, rows: number) => ({
      ids: new Int32Array(tokens),
      tail: { length: rows },
    });
    expect([slot(1, 5), slot(1, 0), slot(2, 5)].map(isStep)).toEqual([true, false, false]);
  });
});
