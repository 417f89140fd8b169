import { ReadonceError } from '../src/core/errors.ts';

/** The writes that go on in a store: one that closes stops them and waits until they are undone. */
export class RunningWrites {
  readonly #closing = new AbortController();
  readonly #running = new Set<Promise<unknown>>();

  /**
   * Runs a write.
   * @param write stops when its signal aborts
   * @throws ReadonceError `engine_unavailable` when the store closes; the signal's reason
   */
  async run<T>(
    write: (signal: AbortSignal) => Promise<T>,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    this.#closing.signal.throwIfAborted();
    const signals = [this.#closing.signal, ...(signal === undefined ? [] : [signal])];
    const running = write(AbortSignal.any(signals));
    this.#running.add(running);
    try {
      return await running;
    } catch (error) {
      // Waits fail with an error of their own, whatever the reason.
      const wasWaiting = error instanceof Error && error.name === 'AbortError';
      if (wasWaiting && signal?.aborted !== true) this.#closing.signal.throwIfAborted();
      throw error;
    } finally {
      this.#running.delete(running);
    }
  }

  /** Stops all; idempotent. */
  async close(): Promise<void> {
    this.#closing.abort(closed());
    await Promise.allSettled(this.#running);
  }
}

function closed(): ReadonceError {
  return new ReadonceError(
    'engine_unavailable',
    'Expected the context store to stay open until the write was done but it was closed; try again',
  );
}
