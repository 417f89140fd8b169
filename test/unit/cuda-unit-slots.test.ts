import { describe, expect, it, vi } from 'vitest';
import { headCount } from '../../src/core/kv-layout.ts';
import { createRandom } from '../../src/core/random.ts';
import { bytesAt } from '../../src/runtime/cuda/driver-api.ts';
import { mostUnits, UnitSlots } from '../../src/runtime/cuda/unit-slots.ts';
import type { Unit } from '../../src/runtime/cuda/units.ts';
import { fakeKernelGpu } from '../support/fake-memory.ts';

const layout = { layers: 2, kvHeads: 3, group: 2, headDim: 64 };
const heads = headCount(layout);

function open(places = mostUnits) {
  const fake = fakeKernelGpu();
  const onMove = vi.fn<() => void>();
  const slots = new UnitSlots(fake.gpu, { layout, places, onMove });
  onMove.mockClear();
  /** How many tables were copied since the last time. */
  const copied = (): number => {
    const { length } = fake.calls.filter(({ name }) => name === 'cuMemcpy2DAsync_v2');
    fake.calls.length = 0;
    return length;
  };
  /** Asserts that the tables on the device are the units'. */
  const expectTables = (units: readonly Unit[], places: readonly number[]): void => {
    expect(new Set(places).size).toBe(units.length);
    for (const [i, { blocks }] of units.entries()) {
      for (let head = 0; head < heads; head++) {
        const { address, maxBlocks } = slots.table(Math.floor(head / layout.kvHeads));
        const sequence = (places[i] ?? 0) * layout.kvHeads + (head % layout.kvHeads);
        const bytes = bytesAt(address + BigInt(4 * sequence * maxBlocks), 4 * blocks.maxBlocks);
        const row = new Int32Array(bytes.slice().buffer);
        const start = head * blocks.maxBlocks;
        expect(row).toEqual(blocks.table.slice(start, start + blocks.maxBlocks));
      }
    }
  };
  copied();
  return { fake, slots, copied, expectTables, onMove };
}

let versions = 0;

/** Reads nothing but what tables are made of. */
function unit(maxBlocks: number, key: Unit['key'] = { owner: {}, number: 0 }): Unit {
  const version = ++versions;
  const table = Int32Array.from({ length: heads * maxBlocks }, (_, i) => 1000 * version + i);
  const blocks = { table, maxBlocks, version };
  return { key, blocks, lengths: 1, firstQuery: 0, queries: 1, isCausal: false };
}

describe('units in the tables', () => {
  it('lie one behind another in each layer', () => {
    const { slots, copied, expectTables, onMove } = open();
    const units = [unit(2), unit(64), unit(1)];
    const places = slots.place(units);
    expect(places).toEqual([0, 1, 2]);
    expect(onMove).not.toHaveBeenCalled();
    expect(slots.sequences).toBe(mostUnits * layout.kvHeads);
    expect(slots.table(1).address - slots.table(0).address).toBe(
      BigInt(4 * slots.sequences * slots.maxBlocks),
    );
    expect(copied()).toBe(3);
    expectTables(units, places);
  });

  it('keep their places, and are copied only when they have changed', () => {
    const { slots, copied, expectTables } = open();
    const [first, second, third] = [unit(2), unit(3), unit(4)];
    slots.place([first, second, third]);
    expect(copied()).toBe(3);
    const again = slots.place([third, second]);
    expect(again).toEqual([2, 1]);
    expect(copied()).toBe(0);
    const grown = unit(4, second.key);
    const units = [unit(1), third, grown];
    const places = slots.place(units);
    expect(places).toEqual([3, 2, 1]);
    expect(copied()).toBe(2);
    expectTables(units, places);
  });

  it('of one owner are told apart by number', () => {
    const { slots, copied, expectTables } = open();
    const owner = {};
    const [first] = [unit(2, { owner, number: 0 })];
    const second: Unit = { ...first, key: { owner, number: 1 } };
    const places = slots.place([first, second]);
    expect(places).toEqual([0, 1]);
    expect(copied()).toBe(2);
    expectTables([first, second], places);
    expect(slots.place([second, first])).toEqual([1, 0]);
    expect(copied()).toBe(0);
  });

  it('are copied again when others took their place meanwhile', () => {
    const { slots, copied, expectTables } = open();
    const [first, second] = [unit(2), unit(2)];
    slots.place([first]);
    slots.place([second]);
    const others = Array.from({ length: mostUnits - 1 }, () => unit(1));
    slots.place(others);
    expect(copied()).toBe(2 + others.length);
    // The first was used least recently.
    const places = slots.place([second, first]);
    expect(places[0]).toBe(1);
    expect(copied()).toBe(1);
    expectTables([second, first], places);
  });

  it('keep their places while questions come and go between steps', () => {
    const { slots, copied } = open();
    const steps = Array.from({ length: 16 }, () => unit(1));
    slots.place(steps);
    copied();
    for (let question = 0; question < 100; question++) {
      slots.place([unit(1), unit(1)]);
      slots.place(steps);
    }
    expect(copied()).toBe(200);
  });

  it('have places beside those of another call of the same step', () => {
    const { slots, copied, expectTables } = open(2 * mostUnits);
    const calls = [0, 1].map(() => Array.from({ length: mostUnits }, () => unit(1)));
    for (const units of calls) slots.place(units);
    expect(copied()).toBe(2 * mostUnits);
    for (const units of calls) expectTables(units, slots.place(units));
    expect(copied()).toBe(0);
    expect(slots.sequences).toBe(2 * mostUnits * layout.kvHeads);
  });

  it('move all together when one needs more blocks than there is room for', () => {
    const { slots, copied, expectTables, onMove } = open();
    const [first, second] = [unit(64), unit(5)];
    slots.place([first, second]);
    copied();
    const long = unit(65);
    const units = [second, long, first];
    const places = slots.place(units);
    expect(onMove).toHaveBeenCalledOnce();
    expect(slots.maxBlocks).toBe(128);
    expect(copied()).toBe(3);
    expectTables(units, places);
    slots.place(units);
    expect(onMove).toHaveBeenCalledOnce();
    expect(copied()).toBe(0);
    slots.close();
  });

  it.each(['cuMemAlloc_v2', 'cuMemHostAlloc'] as const)(
    'are all copied again when %s had no memory for larger tables',
    (failing) => {
      const { fake, slots, expectTables, onMove } = open();
      const units = [unit(64), unit(5)];
      slots.place(units);
      const held = fake.allocations();
      // Who has the address must forget it while the memory is still there.
      onMove.mockImplementationOnce(() => {
        expect(fake.allocations()).toBe(held);
      });
      fake.shortOf.add(failing);
      expect(() => slots.place([unit(65)])).toThrow(
        expect.objectContaining({ code: 'out_of_memory' }),
      );
      expect(onMove).toHaveBeenCalledOnce();
      expect(() => slots.table(0)).toThrow(/a table/);
      fake.shortOf.clear();
      const places = slots.place(units);
      expect(slots.maxBlocks).toBe(64);
      expectTables(units, places);
      slots.close();
      slots.close();
      expect(fake.allocations()).toBe(0);
    },
  );

  it('are 64 at most', () => {
    const { slots } = open();
    const units = Array.from({ length: mostUnits }, () => unit(1));
    expect(new Set(slots.place(units)).size).toBe(mostUnits);
    expect(() => slots.place([...units, unit(1)])).toThrow(/at most 64 units/);
  });

  it('have their tables whoever comes, goes, grows and returns', () => {
    const { slots, expectTables, onMove } = open();
    const random = createRandom(11);
    const below = (count: number): number => random.nextUint32() % count;
    let known = Array.from({ length: 90 }, () => unit(1 + below(6)));
    let last = new Map<Unit['key'], number>();
    for (let call = 0; call < 60; call++) {
      known = known.map((each) => (below(8) === 0 ? unit(1 + below(9 + call), each.key) : each));
      const count = 1 + below(mostUnits);
      const start = below(known.length);
      const units = [...known, ...known].slice(start, start + count);
      onMove.mockClear();
      const places = slots.place(units);
      const moved = onMove.mock.calls.length > 0;
      expectTables(units, places);
      const now = new Map(units.map(({ key }, i) => [key, places[i] ?? -1]));
      for (const [key, place] of now) {
        if (!moved && last.has(key)) expect(place).toBe(last.get(key));
      }
      last = now;
    }
  });
});
