import { assert } from '../core/assert.ts';
import { ReadonceError } from '../core/errors.ts';

/** Seconds after which a refused client is told to come back. */
const retryAfterSeconds = 2;

/** How many places there are. */
export interface Places {
  /** For everybody together, at least one. */
  readonly all: number;
  /**
   * For each tenant, at least one. Tenant '' is alone, so that only `all` holds for it. Default
   * half of `all`: one tenant never shuts the others out.
   */
  readonly each?: number;
}

/** A bounded number of places. Whoever finds none is refused at once rather than kept waiting. */
export class Admission {
  readonly #what: string;
  readonly #all: number;
  readonly #each: number;
  /** Tenants that have places, and how many. */
  readonly #takenBy = new Map<string, number>();
  #taken = 0;

  /** @param what plural noun for messages, as in "queries" */
  constructor(what: string, { all, each = Math.ceil(all / 2) }: Places) {
    this.#what = what;
    this.#all = all;
    this.#each = each;
  }

  get taken(): number {
    return this.#taken;
  }

  /**
   * Takes a place; returns the function that gives it back (once, however often it is called).
   * @throws ReadonceError `rate_limited` if the tenant has its share, `overloaded` if all are taken
   */
  enter(tenant: string): () => void {
    const own = this.#takenBy.get(tenant) ?? 0;
    if (tenant !== '' && own >= this.#each) {
      throw this.#refusal('rate_limited', `${this.#each} ${this.#what} at once of one tenant`);
    }
    if (this.#taken >= this.#all) {
      throw this.#refusal('overloaded', `${this.#all} ${this.#what} at once`);
    }
    this.#taken++;
    this.#takenBy.set(tenant, own + 1);
    let held = true;
    return () => {
      if (held) this.#leave(tenant);
      held = false;
    };
  }

  /** Runs `work` in a place. @throws ReadonceError as `enter` does */
  async run<T>(tenant: string, work: () => Promise<T>): Promise<T> {
    const leave = this.enter(tenant);
    try {
      return await work();
    } finally {
      leave();
    }
  }

  #leave(tenant: string): void {
    const own = this.#takenBy.get(tenant);
    assert(own !== undefined && own > 0, 'expected to leave a place that was taken');
    this.#taken--;
    if (own === 1) this.#takenBy.delete(tenant);
    else this.#takenBy.set(tenant, own - 1);
  }

  #refusal(code: 'rate_limited' | 'overloaded', bound: string): ReadonceError {
    return new ReadonceError(
      code,
      `Expected at most ${bound} but got one more; try again in ${retryAfterSeconds} seconds.`,
      { retryAfterSeconds },
    );
  }
}
