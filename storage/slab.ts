/**
 * Memory for what is written in one transaction, used again for the next: allocating it piece by
 * piece costs as much as writing it.
 */
export class Slab {
  readonly #memory: Buffer;
  #used = 0;

  /** @param bytes memory is taken from the system as it is used */
  constructor(bytes: number) {
    this.#memory = Buffer.allocUnsafeSlow(bytes);
  }

  /** Memory with anything in it, valid until `reset`; of its own once the slab is used up. */
  readonly allocate = (bytes: number): Buffer => {
    const end = this.#used + bytes;
    if (end > this.#memory.byteLength) return Buffer.allocUnsafe(bytes);
    const part = this.#memory.subarray(this.#used, end);
    this.#used = end;
    return part;
  };

  /** Everything allocated may be overwritten from now on. */
  reset(): void {
    this.#used = 0;
  }
}
