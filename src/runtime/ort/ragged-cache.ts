import { assert, defined } from '../../core/assert.ts';
import { headCount, type KvLayout } from '../../core/kv-layout.ts';
import { allocateFloats } from '../allocate.ts';
import type { RaggedCache } from '../runtime.ts';
import type { OrtEnvironment } from './session.ts';
import type { OrtTensor } from './tensor.ts';

/** One generation of memory: grows by replacement, so that a head's rows stay contiguous. */
interface Slabs {
  readonly tailCapacity: number;
  readonly keys: readonly OrtTensor<Float32Array>[];
  readonly values: readonly OrtTensor<Float32Array>[];
}

/**
 * A loaded context in host memory. Each head owns `lengths[head] + tailCapacity` contiguous rows of
 * one slab: its context rows, then the tail, which the graph appends to in place.
 */
export class OrtRaggedCache implements RaggedCache {
  readonly lengths: Uint32Array;
  readonly #environment: OrtEnvironment;
  readonly #layout: KvLayout;
  #slabs: Slabs;
  #tailLength = 0;

  constructor(
    environment: OrtEnvironment,
    layout: KvLayout,
    shape: { readonly lengths: Uint32Array; readonly tailCapacity: number },
  ) {
    assert(shape.lengths.length === headCount(layout), 'a length for every head');
    this.lengths = shape.lengths;
    this.#environment = environment;
    this.#layout = layout;
    this.#slabs = this.#allocate(shape.tailCapacity);
  }

  get tailLength(): number {
    return this.#tailLength;
  }

  get tailCapacity(): number {
    return this.#slabs.tailCapacity;
  }

  get sizeBytes(): number {
    const rows = this.lengths.reduce((sum, length) => sum + length + this.tailCapacity, 0);
    return rows * this.#layout.headDim * 2 * Float32Array.BYTES_PER_ELEMENT;
  }

  /** Past and present of each head; replaced by `reserveTail`. */
  get keyTensors(): readonly OrtTensor<Float32Array>[] {
    return this.#slabs.keys;
  }

  get valueTensors(): readonly OrtTensor<Float32Array>[] {
    return this.#slabs.values;
  }

  keys(head: number): Float32Array {
    return this.#contextRows(this.#slabs.keys, head);
  }

  values(head: number): Float32Array {
    return this.#contextRows(this.#slabs.values, head);
  }

  /** Called by the runtime after it appended rows. */
  append(rows: number): void {
    assert(this.#tailLength + rows <= this.tailCapacity, 'tail overflow');
    this.#tailLength += rows;
  }

  truncateTail(length: number): void {
    assert(length >= 0 && length <= this.#tailLength, `cannot truncate the tail to ${length}`);
    this.#tailLength = length;
  }

  reserveTail(capacity: number): void {
    if (capacity <= this.tailCapacity) return;
    const old = this.#slabs;
    const next = this.#allocate(capacity);
    for (const [from, to] of [
      [old.keys, next.keys],
      [old.values, next.values],
    ] as const) {
      for (const [head, tensor] of from.entries()) {
        const rows = (this.lengths[head] as number) + this.#tailLength;
        floats(to[head]).set(floats(tensor).subarray(0, rows * this.#layout.headDim));
      }
    }
    release(old);
    this.#slabs = next;
  }

  close(): void {
    release(this.#slabs);
  }

  #contextRows(tensors: readonly OrtTensor<Float32Array>[], head: number): Float32Array {
    const rows = defined(this.lengths[head], `head ${head}`);
    return floats(tensors[head]).subarray(0, rows * this.#layout.headDim);
  }

  #allocate(tailCapacity: number): Slabs {
    const { headDim } = this.#layout;
    const slab = (): readonly OrtTensor<Float32Array>[] => {
      const rows = this.lengths.reduce((sum, length) => sum + length + tailCapacity, 0);
      const memory = allocateFloats(rows * headDim);
      let start = 0;
      return Array.from(this.lengths, (length) => {
        const capacity = length + tailCapacity;
        const end = start + capacity * headDim;
        const view = memory.subarray(start, end);
        start = end;
        return this.#environment.tensor(view, [1, 1, capacity, headDim]);
      });
    };
    return { tailCapacity, keys: slab(), values: slab() };
  }
}

function floats(tensor: OrtTensor<Float32Array> | undefined): Float32Array {
  return defined(tensor, 'the tensor of a head').data;
}

function release(slabs: Slabs): void {
  for (const tensor of [...slabs.keys, ...slabs.values]) tensor.close();
}
