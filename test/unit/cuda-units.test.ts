import { describe, expect, it } from 'vitest';
import { headCount, type KvLayout } from '../../src/core/kv-layout.ts';
import { CudaContextCache, type CudaContextView } from '../../src/runtime/cuda/context-cache.ts';
import { CudaTail } from '../../src/runtime/cuda/tail.ts';
import { planUnits, type UnitSlot } from '../../src/runtime/cuda/units.ts';
import { fakeCaches } from '../support/fake-memory.ts';

function open(group: number) {
  const layout: KvLayout = { layers: 2, kvHeads: 2, group, headDim: 64 };
  const { caches } = fakeCaches(layout);
  const lengths = Uint32Array.from({ length: headCount(layout) }, (_, head) => 10 + head);
  const context = (): CudaContextView => {
    const cache = new CudaContextCache(caches, lengths);
    return cache.view(lengths) as CudaContextView;
  };
  /** A slot behind a tail of `length` rows. */
  const slot = (view: CudaContextView, length: number, tokens: number): UnitSlot => {
    const tail = new CudaTail(caches);
    tail.reserve(length + tokens);
    tail.append(length);
    return { context: view, tail, ids: new Int32Array(tokens) };
  };
  return { layout, context, slot };
}

/** Shapes of a plan's units, in order. */
function shapes(plan: ReturnType<typeof planUnits>) {
  return plan.units.map(({ firstQuery, queries, isCausal }) => [firstQuery, queries, isCausal]);
}

describe('the units of a call', () => {
  it('of a step are a tail each, and one for all slots of a context', () => {
    const { layout, context, slot } = open(7);
    const [a, b] = [context(), context()];
    const slots = [slot(a, 5, 1), slot(b, 1, 1), slot(a, 9, 1)];
    const plan = planUnits(slots, layout);
    // Tokens stand by context, so that each context's queries are a run.
    expect(plan.tokens).toEqual([
      [0, 1],
      [2, 3],
      [1, 2],
    ]);
    expect(shapes(plan)).toEqual([
      [0, 1, true],
      [1, 1, true],
      [0, 2, false],
      [2, 1, true],
      [2, 1, false],
    ]);
    expect(plan.units.map(({ key }) => key.owner)).toEqual([
      slots[0]?.tail,
      slots[2]?.tail,
      a,
      slots[1]?.tail,
      b,
    ]);
    expect(plan.units.map(({ lengths }) => lengths)).toEqual([6, 10, a.lengths, 2, b.lengths]);
    expect(plan.ofToken).toEqual([
      { context: 2, tail: 0, rowFromEnd: 1 },
      { context: 2, tail: 1, rowFromEnd: 1 },
      { context: 4, tail: 3, rowFromEnd: 1 },
    ]);
    expect(plan.mostRows).toBe(14);
  });

  it('read two views of one context apart, each with its own lengths', () => {
    const { layout, context, slot } = open(1);
    const view = context();
    const shorter = view.cache.view(view.lengths.map((rows) => rows - 1)) as CudaContextView;
    const plan = planUnits([slot(view, 1, 1), slot(shorter, 1, 1)], layout);
    const contexts = plan.units.filter(({ isCausal }) => !isCausal);
    expect(contexts.map(({ lengths }) => lengths)).toEqual([view.lengths, shorter.lengths]);
    expect(contexts.map(({ blocks }) => blocks)).toEqual([view.cache.blocks, view.cache.blocks]);
  });

  it.each([
    [1, 128],
    [3, 42],
    [7, 18],
  ])('of a long question at group %i have at most %i queries', (group, most) => {
    const { layout, context, slot } = open(group);
    const tokens = 2 * most + 5;
    const plan = planUnits([slot(context(), 3, tokens)], layout);
    expect(shapes(plan)).toEqual([
      [0, most, true],
      [most, most, true],
      [2 * most, 5, true],
      [0, most, false],
      [most, most, false],
      [2 * most, 5, false],
    ]);
    // Each unit of the tail has the rows up to its last token.
    const tails = plan.units.slice(0, 3);
    expect(tails.map(({ lengths }) => lengths)).toEqual([3 + most, 3 + 2 * most, 3 + tokens]);
    expect(tails.map(({ key }) => key.number)).toEqual([0, 1, 2]);
    expect(plan.ofToken[0]).toEqual({ context: 3, tail: 0, rowFromEnd: most });
    expect(plan.ofToken[most - 1]).toEqual({ context: 3, tail: 0, rowFromEnd: 1 });
    expect(plan.ofToken[2 * most]).toEqual({ context: 5, tail: 2, rowFromEnd: 5 });
    expect(plan.mostRows).toBe(most * group);
  });

  it('of a context with more queries than a unit has room for are cut without regard to slots', () => {
    const { layout, context, slot } = open(7);
    const view = context();
    const plan = planUnits([slot(view, 0, 10), slot(view, 0, 10)], layout);
    expect(shapes(plan)).toEqual([
      [0, 10, true],
      [10, 10, true],
      [0, 18, false],
      [18, 2, false],
    ]);
    expect(plan.ofToken.map((token) => token.context)).toEqual([
      ...Array.from({ length: 18 }, () => 2),
      3,
      3,
    ]);
  });

  it('cannot be had where a group alone is larger than a unit', () => {
    const { layout, context, slot } = open(129);
    expect(() => planUnits([slot(context(), 0, 1)], layout)).toThrow(/group of 129/);
  });
});
