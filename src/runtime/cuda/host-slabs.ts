import { assert, defined } from '../../core/assert.ts';
import type { Closeable } from '../../core/closeable.ts';
import type { CudaDevice, PinnedMemory } from './device.ts';

/** Bytes of rows in a slab: large ones are for what fills them, small ones for what is left. */
export const slabSizes = { large: 64 * 1024 * 1024, small: 4 * 1024 * 1024 } as const;

/** `large` or `small`. */
export type SlabSize = keyof typeof slabSizes;

/** In front of the rows: the pieces that kernels read. */
export const slabPiecesBytes = 64 * 1024;

/**
 * Page-locked memory for copies. It is slow to get: slabs are kept and used again, unless the other
 * size needs their memory.
 */
export class HostSlabs implements Closeable {
  readonly #device: CudaDevice;
  readonly #mostBytes: number;
  readonly #free: Readonly<Record<SlabSize, PinnedMemory[]>> = { large: [], small: [] };
  /** Of rows, in slabs that are free or taken. */
  #pinnedBytes = 0;

  /** @param mostBytes of rows; those who take slabs see to it that no more are taken */
  constructor(device: CudaDevice, mostBytes: number) {
    this.#device = device;
    this.#mostBytes = mostBytes;
  }

  /** @throws ReadonceError `out_of_memory` */
  take(size: SlabSize): PinnedMemory {
    const kept = this.#free[size].pop();
    if (kept !== undefined) return kept;
    const others = this.#free[size === 'large' ? 'small' : 'large'];
    while (others.length > 0 && this.#pinnedBytes + slabSizes[size] > this.#mostBytes) {
      this.#unpin(defined(others.pop(), 'a free slab'));
    }
    const memory = this.#device.pin(slabPiecesBytes + slabSizes[size]);
    this.#pinnedBytes += slabSizes[size];
    return memory;
  }

  /** Takes a slab back; the device is done with it. */
  give(memory: PinnedMemory): void {
    const rowsBytes = memory.sizeBytes - slabPiecesBytes;
    assert(rowsBytes === slabSizes.large || rowsBytes === slabSizes.small, 'a slab of these');
    this.#free[rowsBytes === slabSizes.large ? 'large' : 'small'].push(memory);
  }

  close(): void {
    for (const kept of Object.values(this.#free)) {
      for (const memory of kept.splice(0)) this.#unpin(memory);
    }
  }

  #unpin(memory: PinnedMemory): void {
    this.#pinnedBytes -= memory.sizeBytes - slabPiecesBytes;
    memory.close();
  }
}
