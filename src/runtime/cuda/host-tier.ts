import { assert, defined } from '../../core/assert.ts';
import type { Closeable } from '../../core/closeable.ts';
import type { ContextCache, HostCopy, HostTier } from '../runtime.ts';
import { CudaContextCache, type CachesOptions } from './context-cache.ts';
import type { PinnedMemory } from './device.ts';
import type { StagedFormat } from './kernel-shapes.ts';

/** Bytes of rows in one slab. Page-locked memory is slow to get: slabs are kept and used again. */
const slabBytes = 64 * 1024 * 1024;
const piecesBytes = 64 * 1024;
const pieceNumbers = 4;
const mostPieces = piecesBytes / (4 * pieceNumbers);
const alignment = 16;

/** What kernels move a piece with: enough to fill the bus. */
const blocksPerPiece = 16;

interface Slab {
  readonly memory: PinnedMemory;
  readonly pieceCount: number;
}

/** A run of one head's rows in a slab. */
interface Piece {
  readonly offsetBytes: number;
  readonly rows: number;
  readonly firstRow: number;
  readonly head: number;
}

/** Copies of contexts in page-locked host memory, which the card reads at the speed of its bus. */
export class CudaHostTier implements HostTier, Closeable {
  readonly poolBytes: number;
  readonly #options: CachesOptions;
  readonly #free: PinnedMemory[] = [];

  constructor(options: CachesOptions, poolBytes: number) {
    this.#options = options;
    this.poolBytes = poolBytes;
  }

  copyBytes(lengths: Uint32Array): number {
    return this.#layOut(lengths).length * slabBytes;
  }

  copy(context: ContextCache): HostCopy {
    assert(context instanceof CudaContextCache, 'a context of this runtime');
    const { gpu } = this.#options;
    const slabs: Slab[] = [];
    try {
      for (const pieces of this.#layOut(context.lengths)) {
        slabs.push(this.#slab(pieces));
      }
    } catch (error) {
      this.#giveBack(slabs);
      throw error;
    }
    this.#move(context, slabs, 'store');
    const lengths = context.lengths.slice();
    return new CudaHostCopy(lengths, slabs, slabs.length * slabBytes, () => {
      // The card may still be writing them, or reading.
      gpu.stream.synchronize();
      this.#giveBack(slabs);
    });
  }

  restore(copy: HostCopy): ContextCache {
    assert(copy instanceof CudaHostCopy, 'a copy of this runtime');
    const context = new CudaContextCache(this.#options, copy.lengths);
    this.#move(context, copy.slabs, 'load');
    return context;
  }

  close(): void {
    for (const memory of this.#free.splice(0)) memory.close();
  }

  #move(context: CudaContextCache, slabs: readonly Slab[], way: 'load' | 'store'): void {
    const { gpu, transfer } = this.#options;
    const { target } = context;
    const table = { address: transfer.tableOf(target), maxBlocks: target.maxBlocks };
    for (const { memory, pieceCount } of slabs) {
      gpu.kernels[way](gpu.stream, {
        staging: memory.address + BigInt(piecesBytes),
        staged: this.#staged(),
        pieces: memory.address,
        pieceCount,
        blocksPerPiece,
        pool: target.pool,
        table,
      });
    }
  }

  #slab(pieces: readonly Piece[]): Slab {
    const { device } = this.#options.gpu;
    const memory = this.#free.pop() ?? device.pin(piecesBytes + slabBytes);
    const { buffer, byteOffset } = memory.bytes;
    const numbers = new Int32Array(buffer, byteOffset, piecesBytes / 4);
    for (const [i, { offsetBytes, rows, firstRow, head }] of pieces.entries()) {
      numbers.set([offsetBytes / alignment, rows, firstRow, head], i * pieceNumbers);
    }
    return { memory, pieceCount: pieces.length };
  }

  #giveBack(slabs: readonly Slab[]): void {
    for (const { memory } of slabs) this.#free.push(memory);
  }

  /** The pieces of each slab. */
  #layOut(lengths: Uint32Array): readonly (readonly Piece[])[] {
    const pairBytes = 2 * this.#rowBytes();
    const slabs: Piece[][] = [];
    let filled = slabBytes;
    for (const [head, length] of lengths.entries()) {
      for (let firstRow = 0; firstRow < length;) {
        const fits = Math.floor((slabBytes - filled) / pairBytes);
        if (fits === 0 || slabs.at(-1)?.length === mostPieces) {
          slabs.push([]);
          filled = 0;
          continue;
        }
        const rows = Math.min(fits, length - firstRow);
        defined(slabs.at(-1), 'a slab').push({ offsetBytes: filled, rows, firstRow, head });
        filled = Math.ceil((filled + rows * pairBytes) / alignment) * alignment;
        firstRow += rows;
      }
    }
    return slabs;
  }

  /** As the pool holds rows, so that nothing is rounded. */
  #staged(): StagedFormat {
    return this.#options.blocks.pool.format === 'i8r' ? 'i8' : 'f16';
  }

  #rowBytes(): number {
    const { format, headDim } = this.#options.blocks.pool;
    return format === 'i8r' ? headDim + 2 : 2 * headDim;
  }
}

class CudaHostCopy implements HostCopy {
  readonly lengths: Uint32Array;
  readonly slabs: readonly Slab[];
  readonly sizeBytes: number;
  readonly #onClose: () => void;
  #open = true;

  constructor(
    lengths: Uint32Array,
    slabs: readonly Slab[],
    sizeBytes: number,
    onClose: () => void,
  ) {
    this.lengths = lengths;
    this.slabs = slabs;
    this.sizeBytes = sizeBytes;
    this.#onClose = onClose;
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#onClose();
  }
}
