import { describe, expect, it } from 'vitest';
import { callsOf, mostSlotTokens } from '../../src/runtime/cuda/calls.ts';

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

  it('have 512 tokens at most', () => {
    expect(calls([300, 212, 1, 512], 1)).toEqual([[300, 212], [1], [512]]);
  });

  it('have no more units than there are places for, each slot on a context of its own', () => {
    // 37 tokens at group 7 are three units of a tail and three of a context.
    const sizes = calls(repeated(13, 37), 7).map(({ length }) => length);
    expect(sizes).toEqual([10, 3]);
  });

  it.each([
    [1, 512],
    [7, 512],
    [8, 512],
    [16, 256],
    [128, 32],
  ])('of one slot at group %i have %i tokens at most', (group, most) => {
    expect(mostSlotTokens(layout(group))).toBe(most);
    expect(calls([most, most], group)).toEqual([[most], [most]]);
  });
});
