import { assert } from '../core/assert.ts';

type State =
  | { readonly kind: 'open' }
  | { readonly kind: 'ended' }
  | { readonly kind: 'failed'; readonly error: unknown };

/**
 * Turns callbacks into an async iterable for one reader. What was pushed before `end` or `fail` is
 * read first. Unbounded: a writer that can outrun its reader looks at `size`.
 */
export class AsyncQueue<T extends object> implements AsyncIterableIterator<T, undefined> {
  readonly #items: T[] = [];
  #state: State = { kind: 'open' };
  #wake: (() => void) | undefined;

  /** Items pushed and not read yet. */
  get size(): number {
    return this.#items.length;
  }

  push(item: T): void {
    assert(this.#state.kind === 'open', 'expected to push only to an open queue');
    this.#items.push(item);
    this.#notify();
  }

  end(): void {
    if (this.#state.kind === 'open') this.#state = { kind: 'ended' };
    this.#notify();
  }

  /** The reader's `next` throws `error` once everything pushed before was read. */
  fail(error: unknown): void {
    if (this.#state.kind === 'open') this.#state = { kind: 'failed', error };
    this.#notify();
  }

  async next(): Promise<IteratorResult<T, undefined>> {
    while (this.#items.length === 0 && this.#state.kind === 'open') {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const item = this.#items.shift();
    if (item !== undefined) return { done: false, value: item };
    if (this.#state.kind === 'failed') throw this.#state.error;
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  #notify(): void {
    this.#wake?.();
    this.#wake = undefined;
  }
}
