import { describe, expect, it } from 'vitest';
import { f16 } from '../../src/compression/precision/f16.ts';
import { headCount } from '../../src/core/kv-layout.ts';
import { blockSize } from '../../src/runtime/cuda/block-pool.ts';
import { CudaContextCache } from '../../src/runtime/cuda/context-cache.ts';
import { CudaTail } from '../../src/runtime/cuda/tail.ts';
import { fakeCaches } from '../support/fake-memory.ts';

const layout = { layers: 2, kvHeads: 2, group: 7, headDim: 64 };
const heads = headCount(layout);
const sideBytes = blockSize * layout.headDim * 2;
/** Blocks of a chunk of 32 MiB. */
const chunkBlocks = 8192;

function rows(...lengths: readonly number[]): Uint32Array {
  return Uint32Array.from(lengths);
}

function zeroPairs(count: number) {
  const side = new Uint8Array(f16.encodedBytes(count, layout.headDim));
  return { rows: count, keys: side, values: side };
}

describe('a context in device memory', () => {
  it('has blocks for each head by itself', () => {
    const { caches } = fakeCaches(layout);
    const context = new CudaContextCache(caches, rows(0, 1, 32, 65));
    expect(context.sizeBytes).toBe(5 * caches.blocks.blockBytes);
    const { table, maxBlocks } = context.blocks;
    expect(maxBlocks).toBe(3);
    expect([...table]).toEqual([0, 0, 0, 0, 0, 0, 1, 0, 0, 2, 3, 4]);
  });

  it('gives back and takes blocks at the ends of heads; those that stay are where they were', () => {
    const { caches } = fakeCaches(layout);
    const context = new CudaContextCache(caches, rows(64, 64, 64, 64));
    const { version } = context.blocks;
    context.resize(rows(32, 64, 96, 0));
    expect(context.blocks.version).not.toBe(version);
    const { table, maxBlocks } = context.blocks;
    expect([...context.lengths]).toEqual([32, 64, 96, 0]);
    expect(maxBlocks).toBe(3);
    expect([...table.subarray(0, 1)]).toEqual([0]);
    expect([...table.subarray(3, 5)]).toEqual([2, 3]);
    expect([...table.subarray(6, 8)]).toEqual([4, 5]);
    expect(caches.blocks.takenBytes).toBe(6 * caches.blocks.blockBytes);
    expect(table[8]).toBe(8);
  });

  it('is as it was when there is no memory to grow', () => {
    const { caches } = fakeCaches(layout, { poolBytes: 1 });
    const context = new CudaContextCache(caches, rows(64, 64, 64, 64));
    const before = context.blocks;
    expect(() => {
      context.resize(rows(0, 0, 0, 32 * (chunkBlocks + 1)));
    }).toThrow(expect.objectContaining({ code: 'out_of_memory' }));
    expect(context.blocks).toBe(before);
    context.close();
    context.close();
    expect(caches.blocks.takenBytes).toBe(0);
  });

  it('is shortened only with no view open', () => {
    const { caches } = fakeCaches(layout);
    const context = new CudaContextCache(caches, rows(9, 9, 9, 9));
    const view = context.view(rows(3, 0, 9, 1));
    expect(() => {
      context.resize(rows(1, 1, 1, 1));
    }).toThrow(/no open view/);
    expect(() => context.view(rows(10, 0, 0, 0))).toThrow(/at most the rows/);
    view.close();
    context.resize(rows(1, 1, 1, 1));
    expect([...view.lengths]).toEqual([3, 0, 9, 1]);
  });

  it('loads what was written before its blocks change', () => {
    const { caches, launches } = fakeCaches(layout);
    const context = new CudaContextCache(caches, rows(40, 40, 40, 40));
    context.write(3, 8, zeroPairs(32), f16);
    expect(() => {
      context.write(3, 9, zeroPairs(32), f16);
    }).toThrow(/rows are there/);
    expect(launches).toHaveLength(0);
    context.resize(rows(1, 1, 1, 1));
    expect(launches.map(({ name }) => name)).toEqual(['load_f16_f16_d64']);
    context.view(context.lengths);
    expect(launches).toHaveLength(1);
    context.write(0, 0, zeroPairs(1), f16);
    context.close();
    expect(launches).toHaveLength(1);
  });

  it('is copied by whole blocks, keys and values, neighbours together', () => {
    const { caches, calls } = fakeCaches(layout);
    const source = new CudaContextCache(caches, rows(0, 33, 1, 1));
    const target = new CudaContextCache(caches, rows(1, 64, 33, 1));
    calls.length = 0;
    target.copyFrom(source);
    const { keys, values } = caches.blocks.pool;
    const copies = calls.filter(({ name }) => name === 'cuMemcpyDtoDAsync_v2');
    // Blocks 0, 1; 2; 3 of the source; 4; 5, 6; 7, 8; 9 of the target.
    const expected = [
      [5, 0, 3],
      [9, 3, 1],
    ].flatMap(([to, from, count]) =>
      [keys, values].map((side) => [
        side + BigInt((to ?? 0) * sideBytes),
        side + BigInt((from ?? 0) * sideBytes),
        (count ?? 0) * sideBytes,
        caches.gpu.stream.handle,
      ]),
    );
    expect(copies.map(({ args }) => args)).toEqual(expected);
    expect(() => {
      source.copyFrom(target);
    }).toThrow(/no more rows/);
  });
});

describe('a tail in device memory', () => {
  const open = () => {
    const { caches } = fakeCaches(layout, { poolBytes: 1 });
    const taken = () => caches.blocks.takenBytes / caches.blocks.blockBytes;
    return { caches, taken, tail: new CudaTail(caches) };
  };

  it('takes blocks for all heads together, when it needs them', () => {
    const { tail, taken, caches } = open();
    expect([tail.length, tail.sizeBytes, taken()]).toEqual([0, 0, 0]);
    tail.reserve(32);
    tail.append(32);
    expect(taken()).toBe(heads);
    const { version } = tail.blocks;
    tail.reserve(0);
    expect(tail.blocks.version).toBe(version);
    tail.reserve(1);
    tail.append(1);
    expect(tail.sizeBytes).toBe(2 * heads * caches.blocks.blockBytes);
    expect(tail.blocks.version).not.toBe(version);
    expect([...tail.blocks.table]).toEqual([0, 4, 1, 5, 2, 6, 3, 7]);
    expect(() => {
      tail.append(32);
    }).toThrow(/were reserved/);
  });

  it('gives back what forgotten rows needed, and keeps its table otherwise', () => {
    const { tail, taken } = open();
    tail.reserve(100);
    tail.append(100);
    const { version } = tail.blocks;
    tail.truncate(97);
    expect([tail.length, taken(), tail.blocks.version]).toEqual([97, 4 * heads, version]);
    tail.truncate(33);
    expect([tail.length, taken()]).toEqual([33, 2 * heads]);
    expect(tail.blocks.version).not.toBe(version);
    expect(() => {
      tail.truncate(34);
    }).toThrow(/are there/);
    tail.truncate(0);
    expect(taken()).toBe(0);
  });

  it('parks without what it had reserved', () => {
    const { tail, taken } = open();
    tail.reserve(20);
    tail.append(20);
    const [block] = tail.blocks.table;
    tail.reserve(64);
    expect(taken()).toBe(3 * heads);
    tail.park();
    expect([tail.length, taken()]).toEqual([20, heads]);
    expect(tail.blocks.table[0]).toBe(block);
  });

  it('can be given up when memory has run out in the middle', () => {
    const { tail, taken, caches } = open();
    caches.blocks.take(chunkBlocks - heads - 1);
    const before = taken();
    expect(() => {
      tail.reserve(33);
    }).toThrow(expect.objectContaining({ code: 'out_of_memory' }));
    expect(tail.length).toBe(0);
    tail.close();
    tail.close();
    expect(taken()).toBe(before);
  });
});
