import { defined } from '../../core/assert.ts';
import type { Closeable } from '../../core/closeable.ts';
import type { CudaDevice, DeviceMemory } from './device.ts';

/** Memory for logits, taken in turn: each lasts until all the others have been taken once more. */
export class KeptLogits implements Closeable {
  readonly #device: Pick<CudaDevice, 'allocate'>;
  readonly #sizeBytes: number;
  readonly #memories: DeviceMemory[] = [];
  /** The one that was taken before all others. */
  #next = 0;

  constructor(device: Pick<CudaDevice, 'allocate'>, sizeBytes: number) {
    this.#device = device;
    this.#sizeBytes = sizeBytes;
  }

  /**
   * Sees to it that there are so many. New ones are taken first, then the oldest.
   * @throws ReadonceError `out_of_memory`
   */
  reserve(count: number): void {
    while (this.#memories.length < count) {
      this.#memories.splice(this.#next, 0, this.#device.allocate(this.#sizeBytes));
    }
  }

  /** The address of the next one. */
  take(): bigint {
    const { address } = defined(this.#memories[this.#next], 'memory for logits');
    this.#next = (this.#next + 1) % this.#memories.length;
    return address;
  }

  /** Runs `work`; what it takes is taken again by others if it fails. */
  unlessFailed<T>(work: () => T): T {
    const before = this.#next;
    try {
      return work();
    } catch (error) {
      this.#next = before;
      throw error;
    }
  }

  close(): void {
    for (const memory of this.#memories.splice(0)) memory.close();
    this.#next = 0;
  }
}
