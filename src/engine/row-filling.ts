import { resolvePrecision } from '../compression/registry.ts';
import { assert } from '../core/assert.ts';
import type { Clock } from '../core/clock.ts';
import type { Closeable } from '../core/closeable.ts';
import type { ContextRecord } from '../core/context.ts';
import type { Precision } from '../core/precision.ts';
import type { ContextCache } from '../runtime/runtime.ts';
import type { ContextStore, HeadRange, HeadRows, RowReading } from '../../storage/context-store.ts';
import { requireUnchanged } from './context-rows.ts';

/**
 * Stored bytes that are read in one piece of work, about: some ms from the page cache, less than a
 * step of running answers takes. Small contexts are loaded in one.
 */
export const loadPieceBytes = 16 * 1024 * 1024;

/** How long a piece may take where a disk or decoding is slow; one step on a GPU or two. */
const pieceMs = 20;

/** Where rows are read from, and how much at a time. */
export interface RowFillingOptions {
  readonly store: ContextStore;
  readonly clock: Clock;
  readonly pieceBytes: number;
}

/** A context's rows on their way into a cache that has room for them. */
export class RowFilling implements Closeable {
  readonly #options: RowFillingOptions;
  readonly #record: ContextRecord;
  readonly #cache: ContextCache;
  readonly #precision: Precision;
  readonly #reading: RowReading;
  #missingRows: number;
  #failure: { readonly error: unknown } | undefined;

  private constructor(
    options: RowFillingOptions,
    target: { readonly record: ContextRecord; readonly cache: ContextCache },
    missing: readonly HeadRange[],
  ) {
    this.#options = options;
    this.#record = target.record;
    this.#cache = target.cache;
    this.#precision = resolvePrecision(target.record.compression.precision);
    this.#missingRows = missing.reduce((sum, { from, to }) => sum + to - from, 0);
    this.#reading = options.store.readRows(target.record.id, missing);
  }

  /**
   * Begins to fill each head's rows behind the first `from[head]` (default: all); undefined if
   * there are none.
   */
  static begin(
    options: RowFillingOptions,
    target: {
      readonly record: ContextRecord;
      readonly cache: ContextCache;
      readonly from: Uint32Array | undefined;
    },
  ): RowFilling | undefined {
    const { cache, from } = target;
    const ranges = Array.from(cache.lengths, (to, head) => ({ head, from: from?.[head] ?? 0, to }));
    const missing = ranges.filter((range) => range.from < range.to);
    return missing.length === 0 ? undefined : new RowFilling(options, target, missing);
  }

  /**
   * Fills some rows, one bounded piece of work; true when all of them are there. Who comes after a
   * failure gets the same error.
   * @throws ReadonceError `corrupt_record`, `out_of_memory`, `conflict` (deleted or replaced
   * meanwhile, whatever else came of it)
   */
  advance(): boolean {
    if (this.#failure !== undefined) throw this.#failure.error;
    try {
      if (!this.#fill()) return false;
      assert(this.#missingRows === 0, `expected ${this.#missingRows} more rows`);
      requireUnchanged(this.#options.store, this.#record);
      this.close();
      return true;
    } catch (error) {
      throw this.#explain(error);
    }
  }

  /** Whether it has ended by an error. */
  get hasFailed(): boolean {
    return this.#failure !== undefined;
  }

  /** Settles when there is something to do for `advance`. */
  ready(): Promise<void> {
    return this.#failure === undefined ? this.#reading.ready() : Promise.resolve();
  }

  /** Ends the filling, for all who wait for it, by an error; the first one counts. */
  fail(error: unknown): void {
    this.#failure ??= { error };
    this.close();
  }

  close(): void {
    this.#reading.close();
  }

  #fill(): boolean {
    const { clock, pieceBytes } = this.#options;
    const endMs = clock.monotonicMs() + pieceMs;
    let bytes = 0;
    const use = (piece: HeadRows): boolean => {
      this.#cache.write(piece.head, piece.firstRow, piece, this.#precision);
      this.#missingRows -= piece.rows;
      bytes += piece.keys.byteLength + piece.values.byteLength;
      return bytes < pieceBytes && clock.monotonicMs() < endMs;
    };
    return this.#reading.take(use);
  }

  #explain(error: unknown): unknown {
    try {
      requireUnchanged(this.#options.store, this.#record);
      return error;
    } catch (conflict) {
      return conflict;
    }
  }
}
