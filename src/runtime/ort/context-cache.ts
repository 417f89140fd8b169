import { assert, defined } from '../../core/assert.ts';
import { headCount, type KvLayout } from '../../core/kv-layout.ts';
import { allocateFloats } from '../allocate.ts';
import type { ContextCache, ContextView } from '../runtime.ts';
import type { OrtEnvironment } from './session.ts';
import type { OrtTensor } from './tensor.ts';

/** A loaded context in host memory: each head's rows lie in arrays of their own. */
export class OrtContextCache implements ContextCache {
  readonly #environment: OrtEnvironment;
  readonly #layout: KvLayout;
  readonly #keys: Float32Array[];
  readonly #values: Float32Array[];
  readonly #views = new Set<OrtContextView>();
  #lengths: Uint32Array;

  constructor(environment: OrtEnvironment, layout: KvLayout, lengths: Uint32Array) {
    assert(lengths.length === headCount(layout), 'a length for every head');
    this.#environment = environment;
    this.#layout = layout;
    this.#lengths = lengths.slice();
    const allocate = (): Float32Array[] =>
      Array.from(lengths, (length) => allocateFloats(length * layout.headDim));
    this.#keys = allocate();
    this.#values = allocate();
  }

  get lengths(): Uint32Array {
    return this.#lengths;
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

interface ViewSource {
  readonly keys: readonly Float32Array[];
  readonly values: readonly Float32Array[];
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
