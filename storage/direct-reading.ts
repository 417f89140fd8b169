import type { HeadRange, HeadRows, RowReading } from './context-store.ts';
import type { Environment } from './environment.ts';
import { readPairs } from './reader.ts';

/**
 * Rows that the taking thread reads itself, one head after another. Between two calls it holds no
 * snapshot: the store's own memory is free for other reads, and deleted bytes for reuse.
 */
export class DirectReading implements RowReading {
  readonly #env: Environment;
  readonly #id: string;
  readonly #ranges: readonly HeadRange[];
  #index = 0;
  /** The next row of the range; undefined: its first. */
  #row: number | undefined;

  constructor(
    env: Environment,
    { id, ranges }: { readonly id: string; readonly ranges: readonly HeadRange[] },
  ) {
    this.#env = env;
    this.#id = id;
    this.#ranges = ranges;
  }

  take(onRows: (rows: HeadRows) => boolean): boolean {
    for (let isWanted = true; isWanted;) {
      const range = this.#ranges[this.#index];
      if (range === undefined) return true;
      isWanted = this.#takeOf(range, onRows);
    }
    return this.#index === this.#ranges.length;
  }

  ready(): Promise<void> {
    return Promise.resolve();
  }

  close(): void {
    this.#index = this.#ranges.length;
  }

  #takeOf({ head, from, to }: HeadRange, onRows: (rows: HeadRows) => boolean): boolean {
    let firstRow = this.#row ?? from;
    let isWanted = true;
    const range = { from: firstRow, to };
    for (const pairs of readPairs(this.#env, { id: this.#id, head, range }, () => undefined)) {
      isWanted = onRows({ ...pairs, head, firstRow });
      firstRow += pairs.rows;
      this.#row = firstRow;
      if (!isWanted) break;
    }
    if (firstRow < to) return isWanted;
    this.#index++;
    this.#row = undefined;
    return isWanted;
  }
}
