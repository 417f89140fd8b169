import { assert, defined } from '../../core/assert.ts';
import { headCount, type KvLayout } from '../../core/kv-layout.ts';
import type { EncodedPairs, Precision } from '../../core/precision.ts';
import { allocateFloats } from '../allocate.ts';
import type { ContextCache, ContextView } from '../runtime.ts';
import { decodePairs } from '../stored-rows.ts';
import type { OrtEnvironment } from './session.ts';
import type { OrtTensor } from './tensor.ts';

/** Rows of each head, `[rows, headDim]`, in arrays of their own or parts of larger ones. */
export interface RowsOfHeads {
  readonly keys: readonly Float32Array[];
  readonly values: readonly Float32Array[];
}

/** A loaded context in host memory: each head's rows lie in arrays of their own. */
export class OrtContextCache implements ContextCache {
  readonly #environment: OrtEnvironment;
  readonly #layout: KvLayout;
  readonly #keys: Float32Array[];
  readonly #values: Float32Array[];
  readonly #views = new Set<OrtContextView>();
  #lengths: Uint32Array;

  /** Owns `rows`. */
  constructor(environment: OrtEnvironment, layout: KvLayout, rows: RowsOfHeads) {
    this.#environment = environment;
    this.#layout = layout;
    this.#keys = [...rows.keys];
    this.#values = [...rows.values];
    this.#lengths = Uint32Array.from(rows.keys, ({ length }) => length / layout.headDim);
  }

  static allocate(
    environment: OrtEnvironment,
    layout: KvLayout,
    lengths: Uint32Array,
  ): OrtContextCache {
    assert(lengths.length === headCount(layout), 'a length for every head');
    const allocate = (): readonly Float32Array[] =>
      Array.from(lengths, (length) => allocateFloats(length * layout.headDim));
    return new OrtContextCache(environment, layout, { keys: allocate(), values: allocate() });
  }

  get lengths(): Uint32Array {
    return this.#lengths;
  }

  get sizeBytes(): number {
    return [...this.#keys, ...this.#values].reduce((sum, { byteLength }) => sum + byteLength, 0);
  }

  write(head: number, firstRow: number, pairs: EncodedPairs, precision: Precision): void {
    const keys = defined(this.#keys[head], `head ${head}`);
    const values = defined(this.#values[head], `head ${head}`);
    decodePairs({ keys, values, headDim: this.#layout.headDim }, firstRow, pairs, precision);
  }

  copyFrom(other: ContextCache): void {
    assert(other instanceof OrtContextCache, 'a context of this runtime');
    for (const head of this.#lengths.keys()) {
      this.#keys[head]?.set(defined(other.#keys[head], `head ${head}`));
      this.#values[head]?.set(defined(other.#values[head], `head ${head}`));
    }
  }

  view(lengths: Uint32Array): ContextView {
    assert(
      lengths.length === this.#lengths.length &&
        lengths.every((length, head) => length <= (this.#lengths[head] as number)),
      'expected at most the rows that are held',
    );
    const view = new OrtContextView(this.#environment, lengths, {
      keys: this.#keys,
      values: this.#values,
      headDim: this.#layout.headDim,
      onClose: () => this.#views.delete(view),
    });
    this.#views.add(view);
    return view;
  }

  resize(lengths: Uint32Array): void {
    assert(lengths.length === this.#lengths.length, 'a length for every head');
    assert(this.#views.size === 0, 'expected no open view');
    for (const rows of [this.#keys, this.#values]) {
      for (const [head, old] of rows.entries()) {
        const next = allocateFloats((lengths[head] as number) * this.#layout.headDim);
        next.set(old.subarray(0, next.length));
        rows[head] = next;
      }
    }
    this.#lengths = lengths.slice();
  }

  close(): void {
    for (const view of this.#views) view.close();
    this.#keys.length = 0;
    this.#values.length = 0;
  }
}

interface ViewSource extends RowsOfHeads {
  readonly headDim: number;
  readonly onClose: () => void;
}

/** The first rows of each head as tensors, `[rows, headDim]`, over the cache's own memory. */
export class OrtContextView implements ContextView {
  readonly lengths: Uint32Array;
  readonly keyTensors: readonly OrtTensor[];
  readonly valueTensors: readonly OrtTensor[];
  readonly #onClose: (() => void)[];

  constructor(environment: OrtEnvironment, lengths: Uint32Array, source: ViewSource) {
    const { headDim } = source;
    const tensors = (rows: readonly Float32Array[]): OrtTensor[] =>
      Array.from(lengths, (length, head) =>
        // A head without rows has a row of zeros in their place, which is told to be ignored.
        length === 0
          ? environment.tensor(new Float32Array(headDim), [1, headDim])
          : environment.tensor(defined(rows[head], `head ${head}`), [length, headDim]),
      );
    this.lengths = lengths.slice();
    this.keyTensors = tensors(source.keys);
    this.valueTensors = tensors(source.values);
    this.#onClose = [source.onClose];
  }

  /** Before the rows go. */
  whenClosed(run: () => void): void {
    this.#onClose.push(run);
  }

  close(): void {
    for (const run of this.#onClose.splice(0)) run();
    for (const tensor of [...this.keyTensors, ...this.valueTensors]) tensor.close();
  }
}
