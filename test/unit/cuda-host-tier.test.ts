import { describe, expect, it } from 'vitest';
import { f16 } from '../../src/compression/precision/f16.ts';
import { CudaContextCache } from '../../src/runtime/cuda/context-cache.ts';
import { bytesAt } from '../../src/runtime/cuda/driver-api.ts';
import { slabPiecesBytes, slabSizes } from '../../src/runtime/cuda/host-slabs.ts';
import { CudaHostTier } from '../../src/runtime/cuda/host-tier.ts';
import type { RecordedLaunch } from '../support/fake-cuda.ts';
import { RowTransfer } from '../../src/runtime/cuda/row-transfer.ts';
import { fakeCaches } from '../support/fake-memory.ts';

const layout = { layers: 1, kvHeads: 2, group: 2, headDim: 64 };
const pairBytes = 2 * layout.headDim * 2;
const noMemory = expect.objectContaining({ code: 'out_of_memory' }) as unknown;
const { large, small } = slabSizes;

function open(poolBytes = 2 ** 30) {
  const fake = fakeCaches(layout);
  const tier = new CudaHostTier(fake.caches, poolBytes);
  const context = (...lengths: readonly number[]) =>
    new CudaContextCache(fake.caches, Uint32Array.from(lengths));
  const pinned = () =>
    fake.calls.filter(({ name }) => name === 'cuMemHostAlloc').map(({ args }) => Number(args[1]));
  return { ...fake, tier, context, pinned };
}

/** Rows that fill so many bytes. */
function rowsOf(sizeBytes: number): number {
  return sizeBytes / pairBytes;
}

interface Piece {
  readonly head: number;
  readonly rows: readonly [first: number, end: number];
  readonly bytes: readonly [first: number, end: number];
}

/** The pieces that a kernel was launched with. */
function piecesOf({ args: [, pieces], grid }: RecordedLaunch): readonly Piece[] {
  const count = [grid].flat()[1] ?? 0;
  const numbers = new Int32Array(bytesAt(pieces as bigint, 16 * count).slice().buffer);
  return Array.from({ length: count }, (_, i) => {
    const [offset = 0, rows = 0, firstRow = 0, head = 0] = numbers.subarray(4 * i, 4 * i + 4);
    const bytes = [16 * offset, 16 * offset + rows * pairBytes] as const;
    return { head, rows: [firstRow, firstRow + rows], bytes };
  });
}

describe('copies of contexts in host memory', () => {
  it('take little more than their rows', () => {
    const { tier } = open();
    const bytes = (...lengths: readonly number[]) => tier.copyBytes(Uint32Array.from(lengths));
    expect(bytes(0, 0)).toBe(0);
    expect(bytes(1, 0)).toBe(small);
    expect(bytes(rowsOf(small), rowsOf(small))).toBe(2 * small);
    expect(bytes(rowsOf(large), 1)).toBe(large + small);
    expect(bytes(3, rowsOf(2 * large) - 4)).toBe(large + large);
  });

  it('have every row once, in slabs that are large enough', () => {
    const { tier, context, launches, pinned } = open();
    const lengths = [rowsOf(small) + 5, rowsOf(large)] as const;
    const copy = tier.copy(context(...lengths));
    expect(copy.sizeBytes).toBe(large + 2 * small);
    expect(pinned()).toEqual([large, small, small].map((bytes) => slabPiecesBytes + bytes));
    const slabs = launches.map(piecesOf);
    expect(launches.map(({ name }) => name)).toEqual(slabs.map(() => 'store_f16_f16_d64'));
    for (const [i, pieces] of slabs.entries()) {
      let end = 0;
      for (const { bytes } of pieces) {
        expect(bytes[0]).toBeGreaterThanOrEqual(end);
        end = bytes[1];
      }
      expect(end).toBeLessThanOrEqual((pinned()[i] ?? 0) - slabPiecesBytes);
    }
    for (const [head, length] of lengths.entries()) {
      let next = 0;
      for (const piece of slabs.flat().filter((each) => each.head === head)) {
        expect(piece.rows[0]).toBe(next);
        next = piece.rows[1];
      }
      expect(next).toBe(length);
    }
    const restored = tier.restore(copy);
    expect([...restored.lengths]).toEqual([...lengths]);
    const loads = launches.slice(slabs.length);
    expect(loads.map(({ name }) => name)).toEqual(slabs.map(() => 'load_f16_f16_d64'));
    expect(loads.map(piecesOf)).toEqual(slabs);
  });

  it('come back as far as they are asked for, to the end of a piece', () => {
    const { tier, context, launches } = open();
    const copy = tier.copy(context(rowsOf(small), 1000));
    const stores = launches.splice(0);
    expect(stores).toHaveLength(2);
    const some = Uint32Array.of(300, 0);
    expect([...copy.covering(some)]).toEqual([512, 0]);
    const restored = tier.restore(copy, some);
    expect([...restored.lengths]).toEqual([512, 0]);
    // Nothing of the second slab is wanted.
    const [load, ...others] = launches.splice(0).map(piecesOf);
    expect(others).toEqual([]);
    expect(load).toMatchObject([
      { head: 0, rows: [0, 256] },
      { head: 0, rows: [256, 512] },
    ]);
    const whole = tier.restore(copy);
    expect([...whole.lengths]).toEqual([rowsOf(small), 1000]);
    const rows = launches.flatMap(piecesOf).reduce((sum, { rows: [a, b] }) => sum + b - a, 0);
    expect(rows).toBe(rowsOf(small) + 1000);
  });

  it('use slabs again, and give those of the other size up for room', () => {
    const { tier, context, pinned, allocations } = open(large + small);
    const [little, much] = [context(1, 1), context(rowsOf(large), 0)];
    for (const each of [little, little, much, much]) tier.copy(each).close();
    expect(pinned()).toHaveLength(2);
    const before = allocations();
    const copies = [tier.copy(much), tier.copy(little)];
    for (const copy of copies) copy.close();
    const two = [tier.copy(little), tier.copy(little)];
    // The large slab was in the way of a second small one.
    expect(allocations()).toBe(before);
    for (const copy of two) {
      copy.close();
      copy.close();
    }
    tier.close();
    expect(allocations()).toBe(before - 2);
  });

  it('leave nothing behind when the card has no memory to make them', () => {
    const { tier, context, allocations, shortOf } = open();
    const little = context(1, 1);
    shortOf.add('cuMemAlloc_v2');
    for (let time = 0; time < 3; time++) expect(() => tier.copy(little)).toThrow(noMemory);
    expect(allocations()).toBe(1);
    shortOf.clear();
    shortOf.add('cuMemHostAlloc');
    const long = context(rowsOf(small), 1);
    for (let time = 0; time < 2; time++) expect(() => tier.copy(long)).toThrow(noMemory);
    shortOf.clear();
    tier.copy(long);
    // Two slabs, and the table.
    expect(allocations()).toBe(3);
  });

  it('that cannot be restored leave the card as it was', () => {
    const { tier, caches, context, shortOf } = open();
    const copy = tier.copy(context(33, 1));
    const before = caches.blocks.takenBytes;
    // One that has no memory for tables yet.
    const transfer = new RowTransfer(caches.gpu, { headDim: 64, type: 'f16' });
    const other = new CudaHostTier({ ...caches, transfer }, 2 ** 30);
    shortOf.add('cuMemAlloc_v2');
    expect(() => other.restore(copy)).toThrow(noMemory);
    expect(caches.blocks.takenBytes).toBe(before);
    shortOf.clear();
    other.restore(copy);
    expect(caches.blocks.takenBytes).toBe(2 * before);
  });

  it('are not made of a context whose rows are not all there', () => {
    const { tier, context, shortOf } = open();
    const little = context(1, 1);
    const side = new Uint8Array(f16.encodedBytes(1, layout.headDim));
    little.write(0, 0, { rows: 1, keys: side, values: side }, f16);
    shortOf.add('cuMemAlloc_v2');
    expect(() => tier.copy(little)).toThrow(noMemory);
    shortOf.clear();
    expect(() => tier.copy(little)).toThrow(noMemory);
  });
});
