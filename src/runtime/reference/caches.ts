import { assert, defined } from '../../core/assert.ts';
import { headCount } from '../../core/kv-layout.ts';
import type { KvLayout } from '../../core/kv-layout.ts';
import type { EncodedPairs, Precision } from '../../core/precision.ts';
import type { ContextCache, ContextView, DenseCache, Tail } from '../runtime.ts';
import { decodePairs, encodePairs } from '../stored-rows.ts';

/** One head's pairs as attention reads them, `[rows, headDim]` each. */
export interface HeadRows {
  readonly keys: Float64Array;
  readonly values: Float64Array;
  /** Rows before the first appendable one: a context's. */
  readonly contextRows: number;
}

/** What the decoder asks of a cache. */
export interface DecoderCache {
  /** Where new pairs go. */
  readonly tail: KvTail;
  /** The head's context rows and its tail, rows written but not yet counted included. */
  rows(head: number): HeadRows;
}

/**
 * Rows that are appended in place, float64, of one length for all heads. Those of a forward call
 * are written layer by layer, and counted by `commit` once every layer has written them.
 */
export class KvTail {
  readonly #layout: KvLayout;
  readonly #keys: Float64Array[];
  readonly #values: Float64Array[];
  #capacity: number;
  #length = 0;

  constructor(layout: KvLayout, capacity: number) {
    assert(Number.isInteger(capacity) && capacity >= 0, `bad cache capacity ${capacity}`);
    this.#layout = layout;
    this.#capacity = capacity;
    const allocate = () =>
      Array.from({ length: headCount(layout) }, () => new Float64Array(capacity * layout.headDim));
    this.#keys = allocate();
    this.#values = allocate();
  }

  get capacity(): number {
    return this.#capacity;
  }

  get length(): number {
    return this.#length;
  }

  /** Bytes held. */
  get sizeBytes(): number {
    return this.#keys.length * 2 * this.#capacity * this.#layout.headDim * 8;
  }

  keys(head: number): Float64Array {
    return defined(this.#keys[head], `head ${head}`);
  }

  values(head: number): Float64Array {
    return defined(this.#values[head], `head ${head}`);
  }

  /** Writes `key` and `value` (`[headDim]`) `offset` rows behind the last counted row. */
  write(head: number, offset: number, pair: { key: Float64Array; value: Float64Array }): void {
    const start = (this.#length + offset) * this.#layout.headDim;
    this.keys(head).set(pair.key, start);
    this.values(head).set(pair.value, start);
  }

  /** Makes room for `rows` rows behind those counted. */
  grow(rows: number): void {
    if (this.#length + rows <= this.#capacity) return;
    this.#capacity = this.#length + rows;
    for (const memory of [this.#keys, this.#values]) {
      for (const [head, old] of memory.entries()) {
        const next = new Float64Array(this.#capacity * this.#layout.headDim);
        next.set(old);
        memory[head] = next;
      }
    }
  }

  /** Counts `rows` written rows. */
  commit(rows: number): void {
    this.assertRoom(rows);
    this.#length += rows;
  }

  assertRoom(rows: number): void {
    assert(
      this.#length + rows <= this.#capacity,
      `cache overflow: ${this.#length} + ${rows} rows exceed the capacity ${this.#capacity}`,
    );
  }

  truncate(length: number): void {
    assert(
      Number.isInteger(length) && length >= 0 && length <= this.#length,
      `cannot truncate ${this.#length} rows to ${length}`,
    );
    this.#length = length;
  }

  /** Frees the rows; the cache must not be used any more. Idempotent. */
  close(): void {
    this.#keys.length = 0;
    this.#values.length = 0;
    this.#capacity = 0;
    this.#length = 0;
  }
}

/** A dense cache is a tail without context rows. */
export class ReferenceDenseCache implements DenseCache, DecoderCache {
  readonly tail: KvTail;
  readonly #headDim: number;

  constructor(layout: KvLayout, capacity: number) {
    this.tail = new KvTail(layout, capacity);
    this.#headDim = layout.headDim;
  }

  get capacity(): number {
    return this.tail.capacity;
  }

  get length(): number {
    return this.tail.length;
  }

  truncate(length: number): void {
    this.tail.truncate(length);
  }

  rows(head: number): HeadRows {
    return { keys: this.tail.keys(head), values: this.tail.values(head), contextRows: 0 };
  }

  pairs(head: number, rows: Uint32Array, precision: Precision): EncodedPairs {
    const keys = this.keys(head, 0, this.length);
    const values = this.values(head, 0, this.length);
    return encodePairs({ keys, values, headDim: this.#headDim }, rows, precision);
  }

  keys(head: number, start: number, end: number): Float32Array {
    return this.#narrow(this.tail.keys(head), start, end);
  }

  values(head: number, start: number, end: number): Float32Array {
    return this.#narrow(this.tail.values(head), start, end);
  }

  #narrow(rows: Float64Array, start: number, end: number): Float32Array {
    assert(
      start >= 0 && start <= end && end <= this.length,
      `expected rows within [0, ${this.length}) but got [${start}, ${end})`,
    );
    return new Float32Array(rows.subarray(start * this.#headDim, end * this.#headDim));
  }

  close(): void {
    this.tail.close();
  }
}

/** Rows are float32, because no stored precision holds more. */
export class ReferenceContextCache implements ContextCache {
  readonly #layout: KvLayout;
  #keys: Float32Array[];
  #values: Float32Array[];
  readonly #views = new Set<ReferenceContextView>();

  constructor(layout: KvLayout, lengths: Uint32Array) {
    assert(
      lengths.length === headCount(layout),
      `expected ${headCount(layout)} head lengths but got ${lengths.length}`,
    );
    this.#layout = layout;
    const allocate = () =>
      Array.from(lengths, (length) => new Float32Array(length * layout.headDim));
    this.#keys = allocate();
    this.#values = allocate();
  }

  /** All rows of a dense cache, as the runtime hands them out: float32. */
  static of(layout: KvLayout, dense: ReferenceDenseCache): ReferenceContextCache {
    const context = new ReferenceContextCache(
      layout,
      new Uint32Array(headCount(layout)).fill(dense.length),
    );
    for (let head = 0; head < headCount(layout); head++) {
      context.keys(head).set(dense.keys(head, 0, dense.length));
      context.values(head).set(dense.values(head, 0, dense.length));
    }
    return context;
  }

  get lengths(): Uint32Array {
    return Uint32Array.from(this.#keys, ({ length }) => length / this.#layout.headDim);
  }

  get sizeBytes(): number {
    return [...this.#keys, ...this.#values].reduce((sum, { byteLength }) => sum + byteLength, 0);
  }

  keys(head: number): Float32Array {
    return defined(this.#keys[head], `head ${head}`);
  }

  values(head: number): Float32Array {
    return defined(this.#values[head], `head ${head}`);
  }

  write(head: number, firstRow: number, pairs: EncodedPairs, precision: Precision): void {
    const [keys, values] = [this.keys(head), this.values(head)];
    decodePairs({ keys, values, headDim: this.#layout.headDim }, firstRow, pairs, precision);
  }

  copyFrom(other: ContextCache): void {
    assert(other instanceof ReferenceContextCache, 'expected a context of the reference runtime');
    for (const head of this.#keys.keys()) {
      this.keys(head).set(other.keys(head));
      this.values(head).set(other.values(head));
    }
  }

  view(lengths: Uint32Array): ContextView {
    const held = this.lengths;
    assert(
      lengths.length === held.length &&
        lengths.every((length, head) => length <= (held[head] as number)),
      'expected at most the rows that are held',
    );
    const view = new ReferenceContextView(this, lengths, () => this.#views.delete(view));
    this.#views.add(view);
    return view;
  }

  resize(lengths: Uint32Array): void {
    assert(lengths.length === this.#keys.length, 'expected a length for every head');
    assert(this.#views.size === 0, 'expected no open view');
    const resized = (rows: readonly Float32Array[]): Float32Array[] =>
      rows.map((old, head) => {
        const next = new Float32Array((lengths[head] as number) * this.#layout.headDim);
        next.set(old.subarray(0, next.length));
        return next;
      });
    this.#keys = resized(this.#keys);
    this.#values = resized(this.#values);
  }

  close(): void {
    for (const view of this.#views) view.close();
    this.#keys = [];
    this.#values = [];
  }
}

/** The first rows of each head. */
export class ReferenceContextView implements ContextView {
  readonly lengths: Uint32Array;
  readonly #context: ReferenceContextCache;
  readonly #onClose: () => void;

  constructor(context: ReferenceContextCache, lengths: Uint32Array, onClose: () => void) {
    this.#context = context;
    this.lengths = lengths.slice();
    this.#onClose = onClose;
  }

  /** One head's rows seen, and those of a tail behind them. */
  rows(head: number, tail: KvTail): HeadRows {
    const contextRows = defined(this.lengths[head], `head ${head}`);
    const floats = contextRows * (tail.keys(head).length / Math.max(1, tail.capacity));
    return {
      keys: concatenate(this.#context.keys(head).subarray(0, floats), tail.keys(head)),
      values: concatenate(this.#context.values(head).subarray(0, floats), tail.values(head)),
      contextRows,
    };
  }

  close(): void {
    this.#onClose();
  }
}

/** A tail in float64, which the runtime computes itself. */
export class ReferenceTail implements Tail {
  readonly rows: KvTail;

  constructor(layout: KvLayout) {
    this.rows = new KvTail(layout, 0);
  }

  get length(): number {
    return this.rows.length;
  }

  get sizeBytes(): number {
    return this.rows.sizeBytes;
  }

  truncate(length: number): void {
    this.rows.truncate(length);
  }

  park(): void {}

  close(): void {
    this.rows.close();
  }
}

function concatenate(context: Float32Array, tail: Float64Array): Float64Array {
  const rows = new Float64Array(context.length + tail.length);
  rows.set(context);
  rows.set(tail, context.length);
  return rows;
}
