import { assert } from '../src/core/assert.ts';

/**
 * Memory that the pieces of one transaction are put together in: allocating it piece by piece costs
 * as much as writing it.
 */
export class Slab {
  /** Handed over to another thread, and used again when it comes back. */
  readonly memory: ArrayBuffer;
  #usedBytes = 0;

  /** @param memory may hold anything */
  constructor(memory: ArrayBuffer) {
    this.memory = memory;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** Memory with anything in it. */
  allocate(bytes: number): Buffer {
    const start = this.#usedBytes;
    this.#usedBytes += bytes;
    assert(this.#usedBytes <= this.memory.byteLength, 'a slab has room for a batch');
    return Buffer.from(this.memory, start, bytes);
  }
}
