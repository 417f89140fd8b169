import { untilAborted } from '../core/until-aborted.ts';

/**
 * One at a time for each key, first come first served. Different keys do not wait for each other:
 * queries on one loaded context share the memory of its tail, those on different ones share
 * nothing.
 */
export class KeyedQueue {
  /** Settles when the last in line of a key is done, and all before it. */
  readonly #last = new Map<string, Promise<void>>();

  /**
   * Waits for those who came before, then runs `use`; later callers wait until it settles.
   * @throws the signal's reason if it is aborted while waiting, at once and without running `use`
   */
  async run<T>(key: string, use: () => Promise<T>, signal: AbortSignal): Promise<T> {
    const before = this.#last.get(key) ?? Promise.resolve();
    let leave = (): void => undefined;
    const left = new Promise<void>((resolve) => {
      leave = resolve;
    });
    const done = before.then(() => left);
    this.#last.set(key, done);
    void done.then(() => {
      if (this.#last.get(key) === done) this.#last.delete(key);
    });
    try {
      await untilAborted(before, signal);
      return await use();
    } finally {
      leave();
    }
  }
}
