import type { Closeable } from '../../src/core/closeable.ts';
import type { CudaDevice, DeviceMemory } from '../../src/runtime/cuda/device.ts';
import type { Kernels } from '../../src/runtime/cuda/kernels.ts';
import type { CudaStream } from '../../src/runtime/cuda/stream.ts';

/** What the checks run with. */
export interface Gpu {
  readonly device: CudaDevice;
  readonly stream: CudaStream;
  readonly kernels: Kernels;
}

/** Device memory of one check, freed together. Every piece is an allocation of its own. */
export class Scratch implements Closeable {
  readonly #gpu: Gpu;
  readonly #memories: DeviceMemory[] = [];

  constructor(gpu: Gpu) {
    this.#gpu = gpu;
  }

  /** Memory with every byte set, to NaN in all float formats unless told otherwise. */
  room(sizeBytes: number, value = 0xff): bigint {
    const memory = this.#gpu.device.allocate(sizeBytes);
    this.#memories.push(memory);
    this.#gpu.stream.fill(memory.address, { sizeBytes, value });
    return memory.address;
  }

  upload(data: ArrayBufferView): bigint {
    const address = this.room(data.byteLength);
    this.#gpu.stream.copyToDevice(address, data);
    this.#gpu.stream.synchronize();
    return address;
  }

  download(address: bigint, sizeBytes: number): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(sizeBytes);
    this.#gpu.stream.copyToHost(bytes, address);
    this.#gpu.stream.synchronize();
    return bytes;
  }

  close(): void {
    this.#gpu.stream.synchronize();
    for (const memory of this.#memories.splice(0)) memory.close();
  }
}
