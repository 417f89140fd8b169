import type { Closeable } from '../../core/closeable.ts';
import { Made } from '../../core/made.ts';
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
  readonly #made = new Made();

  /** @throws ReadonceError `engine_unavailable`: `readonce doctor` says what is missing */
  constructor(deviceIndex: number) {
    const made = this.#made;
    try {
      this.device = made.add(CudaDevice.open(deviceIndex));
      this.stream = made.add(this.device.createStream());
      this.kernels = createKernels(made.add(KernelModule.load(this.device)));
      this.ort = made.add(new OrtDevice({ deviceIndex, stream: this.stream.handle }));
    } catch (error) {
      made.abandon();
      throw error;
    }
    made.add({ close: () => this.stream.synchronize() });
  }

  /** After all that was made on the device is closed. */
  close(): void {
    this.#made.close();
  }
}

/** What of a GPU everything uses that leaves ONNX Runtime alone. */
export type KernelGpu = Pick<Gpu, 'device' | 'stream' | 'kernels'>;

/** What of a GPU makes ONNX Runtime's values of its memory, besides. */
export type TensorGpu = KernelGpu & { readonly ort: Pick<OrtDevice, 'tensor' | 'hostTensor'> };
