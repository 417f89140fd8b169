/**
 * One query at a time on a loaded context, first come first served: its tail is one memory. Queries
 * on different contexts do not wait for each other.
 */
export class ContextQueue {
  /** The last query in line of each context. */
  readonly #last = new Map<string, Promise<void>>();

  /** Waits for the context, then runs `use`; later callers wait until it settles. */
  async run<T>(key: string, use: () => Promise<T>): Promise<T> {
    const before = this.#last.get(key);
    let leave = (): void => undefined;
    const done = new Promise<void>((resolve) => {
      leave = resolve;
    });
    this.#last.set(key, done);
    try {
      await before;
      return await use();
    } finally {
      leave();
      if (this.#last.get(key) === done) this.#last.delete(key);
    }
  }
}
