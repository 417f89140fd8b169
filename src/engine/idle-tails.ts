/** What an idle session has parked. */
export interface IdleTail {
  readonly sizeBytes: number;
  /** Ends the session, which releases it. */
  end(): void;
}

/** Parked memory of idle sessions, which others get where nothing else makes enough room. */
export class IdleTails {
  /** By what holds the memory, the longest idle first. */
  readonly #tails = new Map<object, IdleTail>();

  offer(held: object, tail: IdleTail): void {
    this.#tails.set(held, tail);
  }

  /** Takes an offer back, if there is one. */
  withdraw(held: object): void {
    this.#tails.delete(held);
  }

  /** Ends the longest idle sessions for `bytes`; none and false, if all of them have less. */
  giveBack(bytes: number): boolean {
    const tails = [...this.#tails.values()];
    if (tails.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0) < bytes) return false;
    let missingBytes = bytes;
    for (const tail of tails) {
      if (missingBytes <= 0) break;
      tail.end();
      missingBytes -= tail.sizeBytes;
    }
    return true;
  }
}
