import { describe, expect, it } from 'vitest';
import { f16 } from '../../src/compression/precision/f16.ts';
import { f32 } from '../../src/compression/precision/f32.ts';
import { int8 } from '../../src/compression/precision/int8.ts';
import type { Precision } from '../../src/core/precision.ts';
import { CudaContextCache } from '../../src/runtime/cuda/context-cache.ts';
import { bytesAt } from '../../src/runtime/cuda/driver-api.ts';
import type { RecordedLaunch } from '../support/fake-cuda.ts';
import { fakeCaches } from '../support/fake-memory.ts';

const layout = { layers: 1, kvHeads: 2, group: 2, headDim: 64 };
const noMemory = expect.objectContaining({ code: 'out_of_memory' }) as unknown;

function zeroPairs(count: number) {
  const side = new Uint8Array(f16.encodedBytes(count, layout.headDim));
  return { rows: count, keys: side, values: side };
}

/** How many pieces each `load` kernel was given: the y of its grid. */
function loads(launches: readonly RecordedLaunch[]) {
  return launches
    .filter(({ name }) => name.startsWith('load_'))
    .map(({ grid }) => [grid].flat()[1]);
}

describe('rows on their way into blocks', () => {
  it('that could not be loaded go into no other context, and are missed by their own', () => {
    const { caches, launches, shortOf } = fakeCaches(layout);
    const [first, second] = [9, 7].map(
      (rows) => new CudaContextCache(caches, new Uint32Array(2).fill(rows)),
    ) as [CudaContextCache, CudaContextCache];
    first.write(0, 0, zeroPairs(9), f16);
    first.write(1, 0, zeroPairs(9), f16);
    shortOf.add('cuMemAlloc_v2');
    expect(() => first.view(first.lengths)).toThrow(noMemory);
    shortOf.clear();
    second.write(0, 0, zeroPairs(7), f16);
    second.view(second.lengths);
    expect(loads(launches)).toEqual([1]);
    expect(() => first.view(first.lengths)).toThrow(noMemory);
    const third = new CudaContextCache(caches, first.lengths);
    expect(() => {
      third.copyFrom(first);
    }).toThrow(noMemory);
  });

  it('of several contexts by turns are found each by its own table, and lost to it alone', () => {
    const { caches, launches, shortOf } = fakeCaches(layout);
    const [first, second, third] = [9, 7, 5].map(
      (rows) => new CudaContextCache(caches, new Uint32Array(2).fill(rows)),
    ) as [CudaContextCache, CudaContextCache, CudaContextCache];
    const write = (cache: CudaContextCache, head: number, rows: number): void => {
      cache.write(head, 0, zeroPairs(rows), f16);
    };
    shortOf.add('cuMemAlloc_v2');
    write(first, 0, 9);
    write(second, 0, 7);
    // So does a step of answers on other contexts.
    caches.transfer.flush();
    shortOf.clear();
    expect(loads(launches)).toEqual([]);
    for (const head of [0, 1]) {
      write(first, head, 9);
      write(third, head, 5);
    }
    third.view(third.lengths);
    for (const lost of [first, second]) expect(() => lost.view(lost.lengths)).toThrow(noMemory);
    expect(loads(launches)).toEqual([1, 1, 1, 1]);
  });

  it('are found by a table in memory that is still held', () => {
    const { caches, shortOf, allocations } = fakeCaches(layout);
    const context = (rows: number) => {
      const cache = new CudaContextCache(caches, new Uint32Array(2).fill(rows));
      cache.write(0, 0, zeroPairs(rows), f16);
      return () => cache.view(cache.lengths);
    };
    // Both halves of the staging memory are made.
    context(32)();
    context(32)();
    const held = allocations();
    // A table of more than the 256 bytes that are allocated at least.
    const large = context(32 * 40);
    shortOf.add('cuMemAlloc_v2');
    expect(large).toThrow(noMemory);
    shortOf.clear();
    expect(allocations()).toBe(held - 1);
    context(32)();
    expect(allocations()).toBe(held);
  });
});

/** Bytes of one row that came from numbers that are not finite, as the kernels store it. */
const infinite: readonly (readonly [Precision, Uint8Array])[] = [
  [f16, new Uint8Array(Uint16Array.of(0x7e00).buffer)],
  [f16, new Uint8Array(Uint16Array.of(0x7bff, 0xfc00).buffer)],
  [f32, new Uint8Array(Float32Array.of(-Infinity).buffer)],
  [int8, new Uint8Array(Uint16Array.of(0x7c00).buffer)],
];

describe('rows on their way to their stored form', () => {
  const dense = { keys: 0x1000n, values: 0x2000n };
  const rows = Uint32Array.of(4, 1, 3);

  it.each(infinite)('are refused when they are not finite: $0.name', (precision, broken) => {
    const sideBytes = precision.encodedBytes(rows.length, layout.headDim);
    let at: number | undefined;
    const { caches } = fakeCaches(layout, {
      onLaunch: ({ name, args }) => {
        if (!name.startsWith('store_')) return;
        const out = bytesAt(args[0] as bigint, 2 * sideBytes).fill(0);
        if (at !== undefined) out.set(broken, at);
      },
    });
    const encode = () => caches.transfer.encode(dense, rows, precision);
    expect(encode()).toMatchObject({ rows: 3, keys: new Uint8Array(sideBytes) });
    const lastRow = (2 * sideBytes * 2) / 3 - sideBytes;
    for (at of [0, sideBytes + lastRow]) {
      expect(encode).toThrow(expect.objectContaining({ code: 'unsupported' }));
    }
  });

  it.each(['cuMemAlloc_v2', 'cuMemHostAlloc'] as const)(
    'leave nothing behind when there is no memory for them: %s',
    (failing) => {
      const { caches, shortOf, allocations } = fakeCaches(layout);
      shortOf.add(failing);
      for (let time = 0; time < 2; time++) {
        expect(() => caches.transfer.encode(dense, rows, f16)).toThrow(noMemory);
        expect(allocations()).toBe(0);
      }
      shortOf.clear();
      caches.transfer.encode(dense, rows, f16);
      caches.transfer.close();
      caches.transfer.close();
      expect(allocations()).toBe(0);
    },
  );
});
