import { ReadonceError } from '../core/errors.ts';

/** Seconds after which a refused client is told to come back. */
const retryAfterSeconds = 2;

/** A bounded number of places. Whoever finds none is refused at once rather than kept waiting. */
export class Admission {
  readonly #what: string;
  readonly #limit: number;
  #taken = 0;

  /**
   * @param what plural noun for messages, as in "queries"
   * @param limit places, at least one
   */
  constructor(what: string, limit: number) {
    this.#what = what;
    this.#limit = limit;
  }

  get taken(): number {
    return this.#taken;
  }

  /**
   * Takes a place; returns the function that gives it back (once, however often it is called).
   * @throws ReadonceError `overloaded`
   */
  enter(): () => void {
    if (this.#taken >= this.#limit) {
      throw new ReadonceError(
        'overloaded',
        `Expected fewer than ${this.#limit} ${this.#what} at once but got one more; ` +
          `try again in ${retryAfterSeconds} seconds.`,
        { retryAfterSeconds },
      );
    }
    this.#taken++;
    let held = true;
    return () => {
      if (held) this.#taken--;
      held = false;
    };
  }

  /** Runs `work` in a place. @throws ReadonceError `overloaded` */
  async run<T>(work: () => Promise<T>): Promise<T> {
    const leave = this.enter();
    try {
      return await work();
    } finally {
      leave();
    }
  }
}
