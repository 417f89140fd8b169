import { assert, defined } from '../../core/assert.ts';
import { headCount, type KvLayout } from '../../core/kv-layout.ts';
import type { EncodedPairs, Precision } from '../../core/precision.ts';
import { allocateFloats } from '../allocate.ts';
import type { DenseCache } from '../runtime.ts';
import { encodePairs } from '../stored-rows.ts';
import type { RowsOfHeads } from './context-cache.ts';
import type { OrtEnvironment } from './session.ts';
import type { OrtTensor } from './tensor.ts';

/** A document's uncompressed cache in host memory: per layer `[kvHeads, capacity, headDim]`. */
export class OrtDenseCache implements DenseCache {
  readonly capacity: number;
  readonly keyTensors: readonly OrtTensor<Float32Array>[];
  readonly valueTensors: readonly OrtTensor<Float32Array>[];
  readonly #layout: KvLayout;
  #length = 0;

  constructor(environment: OrtEnvironment, layout: KvLayout, capacity: number) {
    this.capacity = capacity;
    this.#layout = layout;
    const { layers, kvHeads, headDim } = layout;
    const allocate = (): readonly OrtTensor<Float32Array>[] =>
      Array.from({ length: layers }, () =>
        environment.tensor(allocateFloats(kvHeads * capacity * headDim), [
          1,
          kvHeads,
          capacity,
          headDim,
        ]),
      );
    this.keyTensors = allocate();
    this.valueTensors = allocate();
  }

  get length(): number {
    return this.#length;
  }

  /** Called by the runtime after it appended rows. */
  append(rows: number): void {
    assert(this.#length + rows <= this.capacity, 'dense cache overflow');
    this.#length += rows;
  }

  truncate(length: number): void {
    assert(length >= 0 && length <= this.#length, `cannot truncate to ${length} rows`);
    this.#length = length;
  }

  pairs(head: number, rows: Uint32Array, precision: Precision): EncodedPairs {
    const keys = this.#rows(this.keyTensors, head, [0, this.#length]);
    const values = this.#rows(this.valueTensors, head, [0, this.#length]);
    return encodePairs({ keys, values, headDim: this.#layout.headDim }, rows, precision);
  }

  keys(head: number, start: number, end: number): Float32Array {
    return this.#rows(this.keyTensors, head, [start, end]);
  }

  /** All rows, in the cache's own memory. */
  rowsOfHeads(): RowsOfHeads {
    const rows = (tensors: readonly OrtTensor<Float32Array>[]): readonly Float32Array[] =>
      Array.from({ length: headCount(this.#layout) }, (_, head) =>
        this.#rows(tensors, head, [0, this.#length]),
      );
    return { keys: rows(this.keyTensors), values: rows(this.valueTensors) };
  }

  #rows(
    tensors: readonly OrtTensor<Float32Array>[],
    head: number,
    [start, end]: readonly [number, number],
  ): Float32Array {
    const { kvHeads, headDim } = this.#layout;
    assert(head >= 0 && head < headCount(this.#layout), `head ${head} out of range`);
    assert(start >= 0 && start <= end && end <= this.#length, `rows ${start}…${end} out of range`);
    const { data } = defined(tensors[Math.floor(head / kvHeads)], `the layer of head ${head}`);
    const first = (head % kvHeads) * this.capacity;
    return data.subarray((first + start) * headDim, (first + end) * headDim);
  }

  close(): void {
    for (const tensor of [...this.keyTensors, ...this.valueTensors]) tensor.close();
  }
}
