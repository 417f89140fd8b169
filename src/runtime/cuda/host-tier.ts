import { assert } from '../../core/assert.ts';
import type { Closeable } from '../../core/closeable.ts';
import type { ContextCache, HostCopy, HostTier } from '../runtime.ts';
import { CudaContextCache, type CachesOptions } from './context-cache.ts';
import type { PinnedMemory } from './device.ts';
import { HostSlabs, slabPiecesBytes, slabSizes, type SlabSize } from './host-slabs.ts';
import type { StagedFormat } from './kernel-shapes.ts';

const pieceNumbers = 4;
const mostPieces = slabPiecesBytes / (4 * pieceNumbers);
const alignment = 16;

/** Rows of a piece, which comes back whole: few, beside what a head of a long document has. */
const pieceRows = 256;

/** What kernels move a piece with: enough to fill the bus. */
const blocksPerPiece = 16;

interface Slab {
  readonly memory: PinnedMemory;
  readonly pieces: readonly Piece[];
}

/** A run of one head's rows in a slab. */
interface Piece {
  readonly offsetBytes: number;
  readonly rows: number;
  readonly firstRow: number;
  readonly head: number;
}

/** What is to be in a slab. */
interface SlabPlan {
  readonly size: SlabSize;
  readonly pieces: readonly Piece[];
}

/** Copies of contexts in page-locked host memory, which the card reads at the speed of its bus. */
export class CudaHostTier implements HostTier, Closeable {
  readonly poolBytes: number;
  readonly #options: CachesOptions;
  readonly #slabs: HostSlabs;

  constructor(options: CachesOptions, poolBytes: number) {
    this.#options = options;
    this.poolBytes = poolBytes;
    this.#slabs = new HostSlabs(options.gpu.device, poolBytes);
  }

  copyBytes(lengths: Uint32Array): number {
    return sizeOf(this.#layOut(lengths));
  }

  copy(context: ContextCache): HostCopy {
    assert(context instanceof CudaContextCache, 'a context of this runtime');
    const plans = this.#layOut(context.lengths);
    const slabs: Slab[] = [];
    const giveBack = (): void => {
      // The card may still be writing them, or reading.
      this.#options.gpu.stream.synchronize();
      for (const { memory } of slabs) this.#slabs.give(memory);
    };
    try {
      for (const { size, pieces } of plans) {
        slabs.push({ memory: this.#slabs.take(size), pieces });
      }
      this.#move(context, slabs, 'store');
    } catch (error) {
      giveBack();
      throw error;
    }
    return new CudaHostCopy(context.lengths.slice(), slabs, sizeOf(plans), giveBack);
  }

  restore(copy: HostCopy, lengths = copy.lengths): ContextCache {
    assert(copy instanceof CudaHostCopy, 'a copy of this runtime');
    const context = new CudaContextCache(this.#options, copy.covering(lengths));
    try {
      // What the slabs were moved with before may still be read.
      this.#options.gpu.stream.synchronize();
      this.#move(context, copy.slabs, 'load');
      return context;
    } catch (error) {
      context.close();
      throw error;
    }
  }

  close(): void {
    this.#slabs.close();
  }

  /** Moves the rows that the context has. */
  #move(context: CudaContextCache, slabs: readonly Slab[], way: 'load' | 'store'): void {
    const { gpu, transfer } = this.#options;
    const { target, lengths } = context;
    const table = { address: transfer.tableOf(target), maxBlocks: target.maxBlocks };
    for (const { memory, pieces } of slabs) {
      const moved = pieces.filter(({ head, firstRow }) => firstRow < (lengths[head] as number));
      if (moved.length === 0) continue;
      describe(memory, moved);
      gpu.kernels[way](gpu.stream, {
        staging: memory.address + BigInt(slabPiecesBytes),
        staged: this.#staged(),
        pieces: memory.address,
        pieceCount: moved.length,
        blocksPerPiece,
        pool: target.pool,
        table,
      });
    }
  }

  /** Large slabs as long as there are rows to fill them, so that little is left empty. */
  #layOut(lengths: Uint32Array): readonly SlabPlan[] {
    const pairBytes = 2 * this.#rowBytes();
    let leftBytes = pairBytes * lengths.reduce((sum, length) => sum + length, 0);
    const plans: { readonly size: SlabSize; readonly pieces: Piece[] }[] = [];
    let filled = 0;
    for (const [head, length] of lengths.entries()) {
      for (let firstRow = 0; firstRow < length;) {
        const plan = plans.at(-1);
        const roomBytes = plan === undefined ? 0 : slabSizes[plan.size] - filled;
        const fitting = Math.floor(roomBytes / pairBytes);
        const rows = Math.min(pieceRows, fitting, length - firstRow);
        if (plan === undefined || rows <= 0 || plan.pieces.length === mostPieces) {
          plans.push({ size: leftBytes >= slabSizes.large ? 'large' : 'small', pieces: [] });
          filled = 0;
          continue;
        }
        plan.pieces.push({ offsetBytes: filled, rows, firstRow, head });
        filled = Math.ceil((filled + rows * pairBytes) / alignment) * alignment;
        leftBytes -= rows * pairBytes;
        firstRow += rows;
      }
    }
    return plans;
  }

  /** As the pool holds rows, so that nothing is rounded. */
  #staged(): StagedFormat {
    const { format } = this.#options.blocks.pool;
    return format === 'bf16' ? format : format === 'i8r' ? 'i8' : 'f16';
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

  covering(lengths: Uint32Array): Uint32Array {
    const covering = new Uint32Array(lengths.length);
    for (const { head, firstRow, rows } of this.slabs.flatMap(({ pieces }) => pieces)) {
      if (firstRow < (lengths[head] as number)) covering[head] = firstRow + rows;
    }
    return covering;
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#onClose();
  }
}

/** Puts in front of a slab's rows what of them is to be moved. */
function describe({ bytes: { buffer, byteOffset } }: PinnedMemory, pieces: readonly Piece[]): void {
  const numbers = new Int32Array(buffer, byteOffset, slabPiecesBytes / 4);
  for (const [i, { offsetBytes, rows, firstRow, head }] of pieces.entries()) {
    numbers.set([offsetBytes / alignment, rows, firstRow, head], i * pieceNumbers);
  }
}

function sizeOf(plans: readonly SlabPlan[]): number {
  return plans.reduce((sum, { size }) => sum + slabSizes[size], 0);
}
