import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { headCount } from '../../src/core/kv-layout.ts';
import { CudaContextCache, type CudaContextView } from '../../src/runtime/cuda/context-cache.ts';
import { CudaTail } from '../../src/runtime/cuda/tail.ts';
import {
  planUnits,
  type Unit,
  type UnitPlan,
  type UnitSlot,
} from '../../src/runtime/cuda/units.ts';
import { fakeCaches } from '../support/fake-memory.ts';

const mostRows = 128;
const heads = headCount({ layers: 2, kvHeads: 2, group: 1, headDim: 64 });

const calls = fc.record({
  group: fc.constantFrom(1, 2, 3, 4, 7, 8, 16, 60, 128),
  contexts: fc.array(fc.array(fc.nat(70), { minLength: heads, maxLength: heads }), {
    minLength: 1,
    maxLength: 4,
  }),
  slots: fc.array(
    fc.record({ context: fc.nat(3), tail: fc.nat(100), tokens: fc.integer({ min: 1, max: 150 }) }),
    {
      minLength: 1,
      maxLength: 6,
    },
  ),
});

type Call = typeof calls extends fc.Arbitrary<infer T> ? T : never;

/** Rows that the kernels let a query of a unit see in a head: up to its own in a causal one. */
function rowsSeen(unit: Unit, query: number, head: number): number {
  const inUnit = query - unit.firstQuery;
  if (inUnit < 0 || inUnit >= unit.queries) return NaN;
  const rows = typeof unit.lengths === 'number' ? unit.lengths : (unit.lengths[head] ?? NaN);
  return unit.isCausal ? rows - (unit.queries - 1 - inUnit) : rows;
}

function build({ group, contexts, slots }: Call) {
  const layout = { layers: 2, kvHeads: 2, group, headDim: 64 };
  const { caches } = fakeCaches(layout);
  const views = contexts.map((rows) => {
    const lengths = Uint32Array.from(rows);
    return new CudaContextCache(caches, lengths).view(lengths) as CudaContextView;
  });
  const built = slots.map(({ context, tail: length, tokens }): UnitSlot => {
    const tail = new CudaTail(caches);
    tail.reserve(length + tokens);
    tail.append(length);
    const view = views[context % views.length] as CudaContextView;
    return { context: view, tail, ids: new Int32Array(tokens) };
  });
  return { layout, slots: built };
}

describe('the units of a call', () => {
  it('let each token see its context’s rows, and its tail up to itself, once', () => {
    fc.assert(
      fc.property(calls, (call) => {
        const { layout, slots } = build(call);
        const plan = planUnits(slots, layout);
        for (const [i, slot] of slots.entries()) expectSeen(plan, slot, plan.tokens[i]);
        const places = plan.tokens.flatMap(([first, end]) =>
          Array.from({ length: end - first }, (_, token) => first + token),
        );
        expect(places.toSorted((a, b) => a - b)).toEqual([...plan.ofToken.keys()]);
      }),
      { numRuns: 100 },
    );
  });

  it('are as few as there is room for', () => {
    fc.assert(
      fc.property(calls, (call) => {
        const { layout, slots } = build(call);
        const { units, mostRows: found } = planUnits(slots, layout);
        const most = Math.floor(mostRows / call.group);
        expect(Math.max(...units.map(({ queries }) => queries))).toBeLessThanOrEqual(most);
        expect(found).toBe(Math.max(...units.map(({ queries }) => queries)) * call.group);
        const views = new Set(slots.map(({ context }) => context));
        for (const view of views) {
          const tokens = slots
            .filter(({ context }) => context === view)
            .reduce((sum, { ids }) => sum + ids.length, 0);
          const own = units.filter(({ key }) => key.owner === view);
          expect(own).toHaveLength(Math.ceil(tokens / most));
          expect(own.map(({ key }) => key.number)).toEqual([...own.keys()]);
        }
        for (const { tail, ids } of slots) {
          const own = units.filter(({ key }) => key.owner === tail);
          expect(own).toHaveLength(Math.ceil(ids.length / most));
        }
      }),
      { numRuns: 100 },
    );
  });
});

/** Checks the tokens of one slot, which lie in `[first, end)` of the call. */
function expectSeen(
  { units, ofToken }: UnitPlan,
  { context, tail, ids }: UnitSlot,
  place: readonly [first: number, end: number] | undefined,
): void {
  const [first, end] = place ?? [0, -1];
  expect(end - first).toBe(ids.length);
  const wrong = Array.from({ length: ids.length }, (_, token) => token).filter((token) => {
    const query = first + token;
    const reads = ofToken[query];
    const [contextUnit, tailUnit] = [units[reads?.context ?? -1], units[reads?.tail ?? -1]];
    if (reads === undefined || contextUnit === undefined || tailUnit === undefined) return true;
    const own = tail.length + token;
    const seesRows = Array.from(
      context.lengths,
      (rows, head) =>
        rowsSeen(contextUnit, query, head) === rows && rowsSeen(tailUnit, query, head) === own + 1,
    );
    const isRight =
      contextUnit.key.owner === context &&
      contextUnit.blocks === context.cache.blocks &&
      tailUnit.key.owner === tail &&
      tailUnit.blocks === tail.blocks &&
      seesRows.every(Boolean) &&
      // Where append puts its pair.
      Number(tailUnit.lengths) - reads.rowFromEnd === own;
    return !isRight;
  });
  expect(wrong).toEqual([]);
}
