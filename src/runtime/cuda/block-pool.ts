import { assert, defined } from '../../core/assert.ts';
import type { Closeable } from '../../core/closeable.ts';
import { ReadonceError } from '../../core/errors.ts';
import type { KernelGpu } from './gpu.ts';
import { granularity, SharedGrowingMemory } from './growing-memory.ts';
import { elementBytes, type HeadDim, type PagedPool, type PoolFormat } from './kernel-shapes.ts';
import type { CudaStream } from './stream.ts';

/** Sizes of a pool. */
export interface BlockPoolOptions {
  readonly format: Exclude<PoolFormat, 'i8c'>;
  readonly headDim: HeadDim;
  /** Bytes of blocks that there is room for, at least: whole chunks are made of them. */
  readonly poolBytes: number;
}

/**
 * Rows of a block. Attention is as fast with 16 rows as with 256 (native/README.md), so what counts
 * is the memory that a sequence's last block wastes, half a block on average, against the size of
 * tables.
 */
export const blockSize = 32;

/** What the pool grows and shrinks by, at least, keys or values. */
const leastChunkBytes = 32 * 1024 * 1024;

/** A row's largest magnitude, float16, beside a pool of bytes. */
const magnitudeBytes = 2;

interface Chunk {
  /** Blocks that are free; the whole chunk is when there are as many as it has. */
  readonly free: number[];
}

/**
 * All keys and values in device memory: blocks that contexts and tails of all layers and heads take
 * and give back. The memory behind them is taken from the device as it is needed, lowest blocks
 * first, and given back chunk by chunk.
 */
export class BlockPool implements Closeable {
  readonly pool: PagedPool;
  /** Bytes of a block, keys and values. */
  readonly blockBytes: number;
  readonly mostBlocks: number;
  readonly #gpu: KernelGpu;
  readonly #parts: readonly SharedGrowingMemory[];
  readonly #chunkBlocks: number;
  /** By number; undefined: not backed. */
  readonly #chunks: (Chunk | undefined)[];
  #taken = 0;

  constructor(gpu: KernelGpu, { format, headDim, poolBytes }: BlockPoolOptions) {
    this.#gpu = gpu;
    const rowBytes = headDim * elementBytes(format);
    const isScaled = format === 'i8r';
    this.#chunkBlocks = chunkBlocksOf(rowBytes, granularity(gpu.device));
    this.blockBytes = 2 * blockSize * (rowBytes + (isScaled ? magnitudeBytes : 0));
    // Whoever counts with `poolBytes` finds as many, though chunks are large.
    const mostChunks = Math.max(1, Math.ceil(poolBytes / (this.blockBytes * this.#chunkBlocks)));
    this.mostBlocks = mostChunks * this.#chunkBlocks;
    this.#chunks = Array.from({ length: mostChunks }, () => undefined);
    const part = (bytesOfRow: number): SharedGrowingMemory =>
      new SharedGrowingMemory(gpu.device, {
        chunkBytes: this.#chunkBlocks * blockSize * bytesOfRow,
        mostChunks,
      });
    const [keys, values] = [part(rowBytes), part(rowBytes)];
    const magnitudes = isScaled ? ([part(magnitudeBytes), part(magnitudeBytes)] as const) : [];
    this.#parts = [keys, values, ...magnitudes];
    const [keyLargest, valueLargest] = magnitudes;
    this.pool = {
      format,
      headDim,
      blockSize,
      keys: keys.address,
      values: values.address,
      ...(keyLargest !== undefined && { keyLargest: keyLargest.address }),
      ...(valueLargest !== undefined && { valueLargest: valueLargest.address }),
    };
  }

  /** Copies the rows of neighbouring blocks to others. */
  copy(
    stream: CudaStream,
    { source, target, count }: { source: number; target: number; count: number },
  ): void {
    const chunkRows = this.#chunkBlocks * blockSize;
    for (const { address, chunkBytes } of this.#parts) {
      const sizeBytes = (chunkBytes / chunkRows) * blockSize;
      stream.copyOnDevice({
        source: address + BigInt(source * sizeBytes),
        target: address + BigInt(target * sizeBytes),
        sizeBytes: count * sizeBytes,
      });
    }
  }

  /** Bytes of the blocks that are taken. */
  get takenBytes(): number {
    return this.#taken * this.blockBytes;
  }

  /** Bytes of device memory that the pool holds. */
  get heldBytes(): number {
    return this.#parts.reduce((sum, part) => sum + part.heldBytes, 0);
  }

  /**
   * Takes blocks; what they hold is undefined.
   * @throws ReadonceError `out_of_memory`; nothing is taken then
   */
  take(count: number): Int32Array {
    if (count > this.mostBlocks - this.#taken) throw this.#full(count);
    const blocks = new Int32Array(count);
    let taken = 0;
    for (let number = 0; taken < count && number < this.#chunks.length; number++) {
      const chunk = this.#chunks[number] ?? this.#back(number, blocks.subarray(0, taken));
      while (taken < count && chunk.free.length > 0) {
        blocks[taken++] = defined(chunk.free.pop(), 'a free block');
      }
    }
    assert(taken === count, 'free blocks are in chunks');
    this.#taken += taken;
    return blocks;
  }

  /** Gives blocks back. Kernels that were started before may still read them. */
  give(blocks: Iterable<number>): void {
    const touched = new Set<number>();
    for (const block of blocks) {
      const number = Math.floor(block / this.#chunkBlocks);
      defined(this.#chunks[number], 'a backed chunk').free.push(block);
      touched.add(number);
      this.#taken--;
    }
    for (const number of touched) this.#releaseIfSpare(number);
  }

  close(): void {
    for (const part of this.#parts) part.close();
  }

  #back(number: number, taken: Int32Array): Chunk {
    const backed: SharedGrowingMemory[] = [];
    try {
      for (const part of this.#parts) {
        part.back(number);
        backed.push(part);
      }
    } catch (error) {
      for (const part of backed) part.release(number);
      this.#taken += taken.length;
      this.give(taken);
      throw error;
    }
    const first = number * this.#chunkBlocks;
    // The last is taken first.
    const free = Array.from(
      { length: this.#chunkBlocks },
      (_, i) => first + this.#chunkBlocks - 1 - i,
    );
    const chunk = { free };
    this.#chunks[number] = chunk;
    return chunk;
  }

  /** Gives a free chunk's memory back, but for one: who comes next should not have to wait. */
  #releaseIfSpare(number: number): void {
    const isFree = (chunk: Chunk | undefined): boolean => chunk?.free.length === this.#chunkBlocks;
    if (!isFree(this.#chunks[number])) return;
    if (!this.#chunks.some((chunk, other) => other !== number && isFree(chunk))) return;
    this.#gpu.stream.synchronize();
    for (const part of this.#parts) part.release(number);
    this.#chunks[number] = undefined;
  }

  #full(count: number): ReadonceError {
    const free = this.mostBlocks - this.#taken;
    return new ReadonceError(
      'out_of_memory',
      `Expected ${count} free blocks of device memory but there are ${free} of ` +
        `${this.mostBlocks}: ask with a smaller keepRatio or maxTokens, or raise READONCE_POOL_BYTES`,
      { details: { sizeBytes: count * this.blockBytes, freeBytes: free * this.blockBytes } },
    );
  }
}

/** Blocks whose keys, or values, are whole granules of memory. */
function chunkBlocksOf(rowBytes: number, granule: number): number {
  return Math.ceil(leastChunkBytes / granule) * (granule / (blockSize * rowBytes));
}
