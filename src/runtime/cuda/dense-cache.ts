import { assert } from '../../core/assert.ts';
import type { EncodedPairs, Precision } from '../../core/precision.ts';
import type { KvLayout } from '../../core/kv-layout.ts';
import { decodeHalfInto } from '../../core/half.ts';
import type { ComputeType } from '../../graph/layer-graphs.ts';
import type { OrtTensor } from '../ort/tensor.ts';
import type { DenseCache } from '../runtime.ts';
import type { DeviceMemory } from './device.ts';
import type { TensorGpu } from './gpu.ts';
import type { DenseLayer } from './layer-runner.ts';
import type { RowTransfer } from './row-transfer.ts';

/** What dense caches of a model share. */
export interface DenseCacheOptions {
  readonly gpu: TensorGpu;
  readonly layout: KvLayout;
  readonly type: ComputeType;
  readonly transfer: RowTransfer;
}

/** Of both compute types. */
const elementBytes = 2;

/** A document's uncompressed cache in device memory: `[kvHeads, capacity, headDim]` a layer. */
export class CudaDenseCache implements DenseCache {
  readonly capacity: number;
  readonly #options: DenseCacheOptions;
  readonly #memory: DeviceMemory;
  readonly #layers: readonly DenseLayer[];
  readonly #tensors: readonly OrtTensor[];
  readonly #totalRows = new Int32Array(1);
  #length = 0;
  #open = true;

  /** @throws ReadonceError `out_of_memory` */
  constructor(options: DenseCacheOptions, capacity: number) {
    this.#options = options;
    this.capacity = capacity;
    const { gpu, layout, type } = options;
    const { layers, kvHeads, headDim } = layout;
    // The last row's number lies behind the rows.
    this.#memory = gpu.device.allocate(2 * layers * this.#layerBytes() + 256);
    const shape = [1, kvHeads, capacity, headDim];
    const lastRow = gpu.ort.tensor('int32', this.#lastRowAddress(), [1]);
    const totalRows = gpu.ort.hostTensor(this.#totalRows, [1]);
    this.#layers = Array.from({ length: layers }, (_, layer) => ({
      keys: gpu.ort.tensor(type, this.keysAddress(layer), shape),
      values: gpu.ort.tensor(type, this.valuesAddress(layer), shape),
      lastRow,
      totalRows,
    }));
    this.#tensors = [
      lastRow,
      totalRows,
      ...this.#layers.flatMap(({ keys, values }) => [keys, values]),
    ];
  }

  get length(): number {
    return this.#length;
  }

  /** `[kvHeads, capacity, headDim]` */
  keysAddress(layer: number): bigint {
    return this.#memory.address + BigInt(2 * layer * this.#layerBytes());
  }

  valuesAddress(layer: number): bigint {
    return this.keysAddress(layer) + BigInt(this.#layerBytes());
  }

  layer(index: number): DenseLayer {
    const layer = this.#layers[index];
    assert(layer !== undefined && this.#open, `layer ${index} of an open cache`);
    return layer;
  }

  /** Tells the layers how many rows there will be; for the next runs that are started. */
  expect(rows: number): void {
    assert(rows <= this.capacity, `${rows} rows exceed the capacity ${this.capacity}`);
    this.#totalRows[0] = rows;
    // An array of its own: the one before may not be read yet.
    this.#options.gpu.stream.copyToDevice(this.#lastRowAddress(), Int32Array.of(rows - 1));
  }

  append(rows: number): void {
    assert(this.#length + rows <= this.capacity, 'appended rows fit');
    this.#length += rows;
  }

  truncate(length: number): void {
    assert(length <= this.#length, 'only rows that are there are forgotten');
    this.#length = length;
  }

  pairs(head: number, rows: Uint32Array, precision: Precision): EncodedPairs {
    const { kvHeads } = this.#options.layout;
    const offset = BigInt((head % kvHeads) * this.#headBytes());
    const layer = Math.floor(head / kvHeads);
    return this.#options.transfer.encode(
      { keys: this.keysAddress(layer) + offset, values: this.valuesAddress(layer) + offset },
      rows,
      precision,
    );
  }

  keys(head: number, start: number, end: number): Float32Array {
    const { gpu, layout, type } = this.#options;
    const { kvHeads, headDim } = layout;
    const first = this.keysAddress(Math.floor(head / kvHeads));
    const offset = (head % kvHeads) * this.#headBytes() + start * headDim * elementBytes;
    const halves = new Uint16Array((end - start) * headDim);
    gpu.stream.copyToHost(halves, first + BigInt(offset));
    gpu.stream.synchronize();
    const keys = new Float32Array(halves.length);
    if (type === 'float16') decodeHalfInto(halves, keys);
    // The upper half of a float32.
    else new Uint32Array(keys.buffer).set(Uint32Array.from(halves, (half) => half << 16));
    return keys;
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#options.gpu.stream.synchronize();
    for (const tensor of this.#tensors) tensor.close();
    this.#memory.close();
  }

  #headBytes(): number {
    return this.capacity * this.#options.layout.headDim * elementBytes;
  }

  #layerBytes(): number {
    return this.#options.layout.kvHeads * this.#headBytes();
  }

  #lastRowAddress(): bigint {
    return this.#memory.address + BigInt(2 * this.#options.layout.layers * this.#layerBytes());
  }
}
