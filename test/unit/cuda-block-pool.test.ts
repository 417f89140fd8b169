import { describe, expect, it } from 'vitest';
import { BlockPool, blockSize } from '../../src/runtime/cuda/block-pool.ts';
import { fakeGranuleBytes, fakeKernelGpu } from '../support/fake-memory.ts';

const headDim = 128;
/** Keys or values. */
const sideBytes = blockSize * headDim * 2;
const chunkBytes = 32 * 1024 * 1024;
const chunkBlocks = chunkBytes / sideBytes;

function open(chunks: number, roomBytes = Infinity) {
  const fake = fakeKernelGpu({ roomBytes: () => roomBytes });
  const poolBytes = chunks * 2 * chunkBytes;
  const blocks = new BlockPool(fake.gpu, { format: 'f16', headDim, poolBytes });
  return { ...fake, blocks };
}

describe('a pool of blocks', () => {
  it('has as many as fit its bytes, and no memory before it needs some', () => {
    const { blocks, memory } = open(3);
    expect(blocks.blockBytes).toBe(2 * sideBytes);
    expect(blocks.mostBlocks).toBe(3 * chunkBlocks);
    expect(memory.createdBytes()).toBe(0);
    expect(blocks.heldBytes).toBe(0);
    expect(blocks.pool).toMatchObject({ format: 'f16', headDim, blockSize: 32 });
  });

  it('has one chunk where less than one is allowed', () => {
    const { gpu } = open(1);
    const small = new BlockPool(gpu, { format: 'f16', headDim, poolBytes: 1 });
    expect(small.mostBlocks).toBe(chunkBlocks);
  });

  it('has room for as many bytes as it is asked for, in whole chunks', () => {
    const { gpu } = open(1);
    for (const format of ['f16', 'i8r'] as const) {
      for (const poolBytes of [95e6, 381e6, 3e9]) {
        const blocks = new BlockPool(gpu, { format, headDim, poolBytes });
        expect(blocks.mostBlocks * blocks.blockBytes).toBeGreaterThanOrEqual(poolBytes);
      }
    }
  });

  it('takes the lowest first, keys and values at the same place', () => {
    const { blocks, memory } = open(3);
    expect([...blocks.take(3)]).toEqual([0, 1, 2]);
    expect(memory.createdBytes()).toBe(2 * chunkBytes);
    expect(blocks.takenBytes).toBe(3 * blocks.blockBytes);
    blocks.take(chunkBlocks - 3);
    expect(memory.createdBytes()).toBe(2 * chunkBytes);
    const [next] = blocks.take(1);
    expect(next).toBe(chunkBlocks);
    expect(blocks.heldBytes).toBe(4 * chunkBytes);
    for (const side of [blocks.pool.keys, blocks.pool.values]) {
      expect(memory.isBacked(side + BigInt(chunkBlocks * sideBytes))).toBe(true);
      expect(memory.isBacked(side + BigInt(2 * chunkBlocks * sideBytes))).toBe(false);
    }
  });

  it('gives memory back when a chunk is free, but keeps one, and waits for kernels', () => {
    const { blocks, memory, calls } = open(3);
    const all = blocks.take(3 * chunkBlocks);
    calls.length = 0;
    blocks.give(all.subarray(chunkBlocks, 2 * chunkBlocks));
    expect(memory.createdBytes()).toBe(6 * chunkBytes);
    expect(calls).toEqual([]);
    blocks.give(all.subarray(0, chunkBlocks));
    expect(memory.createdBytes()).toBe(4 * chunkBytes);
    expect(calls[0]?.name).toBe('cuStreamSynchronize');
    blocks.give(all.subarray(2 * chunkBlocks));
    expect(memory.createdBytes()).toBe(2 * chunkBytes);
    expect(blocks.takenBytes).toBe(0);
  });

  it('backs what rows are scaled by for several chunks together', () => {
    const { gpu, memory } = open(1);
    const int8 = new BlockPool(gpu, { format: 'i8r', headDim, poolBytes: 1e9 });
    const perChunk = chunkBytes / (blockSize * headDim);
    const scales = 2 * fakeGranuleBytes;
    const all = int8.take(3 * perChunk);
    expect(memory.createdBytes()).toBe(6 * chunkBytes + scales);
    const { keyLargest } = int8.pool;
    expect(memory.isBacked((keyLargest ?? 0n) + BigInt(3 * perChunk * blockSize * 2 - 1))).toBe(
      true,
    );
    int8.give(all.subarray(perChunk));
    expect(memory.createdBytes()).toBe(4 * chunkBytes + scales);
    expect(int8.heldBytes).toBe(4 * chunkBytes + scales);
    int8.give(all.subarray(0, perChunk));
    expect(memory.createdBytes()).toBe(2 * chunkBytes + scales);
    int8.close();
    expect(memory.createdBytes()).toBe(0);
  });

  it('takes nothing when there are too few, and backs nothing for it', () => {
    const { blocks, memory } = open(3);
    const kept = blocks.take(10);
    expect(() => blocks.take(blocks.mostBlocks - 9)).toThrow(
      expect.objectContaining({
        code: 'out_of_memory',
        message: expect.stringMatching(
          /^Expected 12279 free blocks of device memory but there are 12278 of 12288: .*POOL_BYTES/,
        ) as string,
      }),
    );
    expect(blocks.takenBytes).toBe(10 * blocks.blockBytes);
    expect(memory.createdBytes()).toBe(2 * chunkBytes);
    const rest = blocks.take(blocks.mostBlocks - 10);
    expect(new Set([...kept, ...rest]).size).toBe(blocks.mostBlocks);
  });

  it.each([2, 3])('takes nothing when the card has room for %i sides of chunks', (sides) => {
    const { blocks, memory } = open(3, sides * chunkBytes);
    expect(() => blocks.take(chunkBlocks + 1)).toThrow(
      expect.objectContaining({ code: 'out_of_memory' }),
    );
    expect(blocks.takenBytes).toBe(0);
    // The first chunk is kept for who comes next; of the second there is not half a chunk left.
    expect(memory.createdBytes()).toBe(2 * chunkBytes);
    expect(blocks.take(chunkBlocks)).toHaveLength(chunkBlocks);
  });

  it('gives everything back when it is closed', () => {
    const { blocks, memory } = open(2);
    blocks.take(chunkBlocks + 1);
    blocks.close();
    expect([memory.createdBytes(), memory.reservedBytes()]).toEqual([0, 0]);
  });
});
