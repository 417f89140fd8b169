import type { Closeable } from '../../core/closeable.ts';
import { CudaDevice } from './device.ts';
import { KernelModule } from './kernel-module.ts';
import { createKernels, type Kernels } from './kernels.ts';
import { OrtDevice } from './ort-device.ts';
import type { CudaStream } from './stream.ts';

/**
 * One GPU as a runtime uses it: a single stream that all work goes into in order, ONNX Runtime's
 * as well as our kernels', so that nothing has to wait for anything but the host for results.
 */
export class Gpu implements Closeable {
  readonly device: CudaDevice;
  readonly stream: CudaStream;
  readonly kernels: Kernels;
  readonly ort: OrtDevice;
  readonly #module: KernelModule;
  #open = true;

  /** @throws ReadonceError `engine_unavailable`: `readonce doctor` says what is missing */
  constructor(deviceIndex: number) {
    this.device = CudaDevice.open(deviceIndex);
    this.stream = this.device.createStream();
    this.#module = KernelModule.load(this.device);
    this.kernels = createKernels(this.#module);
    this.ort = new OrtDevice({ deviceIndex, stream: this.stream.handle });
  }

  /** After all that was made on the device is closed. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.stream.synchronize();
    this.ort.close();
    this.#module.close();
    this.stream.close();
    this.device.close();
  }
}

/** What of a GPU everything uses that leaves ONNX Runtime alone. */
export type KernelGpu = Pick<Gpu, 'device' | 'stream' | 'kernels'>;
