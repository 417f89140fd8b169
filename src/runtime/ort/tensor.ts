import { assert } from '../../core/assert.ts';
import { onnxType, type OnnxType } from '../../graph/onnx-model.ts';
import type { Handle, OrtApi } from './api.ts';

export type TensorData = Float32Array | Int32Array | BigInt64Array;

function elementType(data: TensorData): OnnxType {
  if (data instanceof Float32Array) return 'float32';
  return data instanceof Int32Array ? 'int32' : 'int64';
}

/**
 * An ORT value over a typed array. The array is owned until `close`: the runtime reads and writes
 * its memory behind the garbage collector's back.
 */
export class OrtTensor {
  readonly data: TensorData;
  readonly handle: Handle;
  readonly #api: OrtApi;
  #open = true;

  /** @param memory the CPU memory info of the session's environment */
  constructor(api: OrtApi, memory: Handle, data: TensorData, shape: readonly number[]) {
    const elements = shape.reduce((product, dim) => product * dim, 1);
    assert(elements <= data.length, `shape ${shape.join('×')} needs ${elements} elements`);
    this.#api = api;
    this.data = data;
    this.handle = api.create(
      'createTensor',
      memory,
      data,
      elements * data.BYTES_PER_ELEMENT,
      BigInt64Array.from(shape, BigInt),
      shape.length,
      onnxType[elementType(data)],
    );
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#api.release('releaseValue', this.handle);
  }
}
