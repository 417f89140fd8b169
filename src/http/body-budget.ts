import { assert } from '../core/assert.ts';
import { ReadonceError } from '../core/errors.ts';

/** Of each body, so many bytes are free: questions get through whatever documents are coming in. */
const freeBytes = 64 * 2 ** 10;

const retryAfterSeconds = 5;

/** What the bodies of all requests together may take in memory, as long as they are needed. */
export class BodyBudget {
  readonly #maxBytes: number;
  #takenBytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  get takenBytes(): number {
    return this.#takenBytes;
  }

  /** The share of one request. */
  share(): BodyShare {
    let [sizeBytes, counted] = [0, 0];
    return {
      add: (bytes) => {
        sizeBytes += bytes;
        const more = Math.max(0, sizeBytes - freeBytes) - counted;
        if (this.#takenBytes + more > this.#maxBytes) throw this.#full();
        this.#takenBytes += more;
        counted += more;
      },
      close: () => {
        assert(counted <= this.#takenBytes, 'expected to give back what was taken');
        this.#takenBytes -= counted;
        counted = 0;
      },
    };
  }

  #full(): ReadonceError {
    return new ReadonceError(
      'overloaded',
      `Expected at most ${this.#maxBytes} bytes of request bodies at once but got more; try again ` +
        `in ${retryAfterSeconds} seconds, or raise maxBodiesBytes if memory allows.`,
      { retryAfterSeconds },
    );
  }
}

/** What one request's body takes of a `BodyBudget`. */
export interface BodyShare {
  /** Counts bytes that have come. @throws ReadonceError `overloaded` if they have no room */
  add(bytes: number): void;
  /** Gives everything back. Idempotent. */
  close(): void;
}
