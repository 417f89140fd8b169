import { assert } from '../../core/assert.ts';
import type { Closeable } from '../../core/closeable.ts';
import { onnxType, type OnnxType } from '../../graph/onnx-model.ts';
import type { Handle, OrtApi } from './api.ts';

/** Values that graphs take and give: float32, int32, int64, bool. */
export type TensorData = Float32Array | Int32Array | BigInt64Array | Uint8Array;

/** What values are created in: the API, and its description of the CPU's memory. */
export interface TensorScope {
  readonly api: OrtApi;
  readonly memory: Handle;
}

/** Values in memory that JS does not own, as of a mapped file; must outlive the value. */
export interface ForeignMemory {
  readonly type: OnnxType;
  readonly pointer: unknown;
}

/**
 * An ORT value over memory of ours. A typed array is owned until the value is closed: the runtime
 * reads and writes its memory behind the garbage collector's back.
 */
export class OrtTensor<
  D extends TensorData | ForeignMemory = TensorData | ForeignMemory,
> implements Closeable {
  readonly data: D;
  readonly handle: Handle;
  readonly #api: OrtApi;
  #open = true;

  constructor(scope: TensorScope, data: D, shape: readonly number[]) {
    const elements = shape.reduce((product, dim) => product * dim, 1);
    const type = elementType(data);
    if (!('pointer' in data)) {
      assert(elements <= data.length, `shape ${shape.join('×')} needs ${elements} elements`);
    }
    this.#api = scope.api;
    this.data = data;
    this.handle = scope.api.create(
      'createTensor',
      scope.memory,
      'pointer' in data ? data.pointer : data,
      elements * elementBytes[type],
      BigInt64Array.from(shape, BigInt),
      shape.length,
      onnxType[type],
    );
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#api.release('releaseValue', this.handle);
  }
}

/** Bytes of one element. */
export const elementBytes: Readonly<Record<OnnxType, number>> = {
  float32: 4,
  uint8: 1,
  int32: 4,
  int64: 8,
  bool: 1,
  float16: 2,
  bfloat16: 2,
};

function elementType(data: TensorData | ForeignMemory): OnnxType {
  if ('pointer' in data) return data.type;
  if (data instanceof Int32Array) return 'int32';
  if (data instanceof Uint8Array) return 'bool';
  return data instanceof BigInt64Array ? 'int64' : 'float32';
}
