import type { Closeable } from '../../core/closeable.ts';
import type { OnnxType } from '../../graph/onnx-model.ts';
import { loadOrt, type Handle, type OrtApi } from '../ort/api.ts';
import { OrtSession, type SessionScope } from '../ort/session.ts';
import { OrtTensor, type TensorData, type TensorScope } from '../ort/tensor.ts';

/** Where ONNX Runtime's CUDA provider works. */
export interface OrtDeviceOptions {
  readonly deviceIndex: number;
  /** The CUstream that all work goes into. */
  readonly stream: bigint;
}

/**
 * ONNX Runtime with its CUDA provider on one stream of ours: a run puts its kernels there and
 * returns, so that they may be mixed with our own and captured in a graph. Closed last.
 */
export class OrtDevice implements Closeable, SessionScope {
  readonly api: OrtApi;
  readonly runOptions: Handle;
  readonly #environment: Handle;
  readonly #packed: Handle;
  readonly #device: TensorScope;
  readonly #host: TensorScope;
  readonly #options: OrtDeviceOptions;
  #open = true;

  constructor(options: OrtDeviceOptions) {
    const api = loadOrt();
    this.api = api;
    this.#options = options;
    this.#environment = createEnvironment(api);
    const [deviceAllocator, defaultMemory] = [0, 0];
    this.#device = {
      api,
      memory: api.create(
        'createMemory',
        'Cuda',
        deviceAllocator,
        options.deviceIndex,
        defaultMemory,
      ),
    };
    this.#host = { api, memory: api.create('createCpuMemory', deviceAllocator, defaultMemory) };
    this.runOptions = api.create('createRunOptions');
    // We wait for the stream ourselves, where a result is needed.
    api.check('addRunConfig', this.runOptions, 'disable_synchronize_execution_providers', '1');
    this.#packed = api.create('createPackedWeights');
  }

  /**
   * @param model an ONNX file's bytes; everything it computes runs on the device
   * @throws ReadonceError `engine_unavailable` if the CUDA provider cannot be loaded
   */
  createSession(model: Uint8Array): OrtSession {
    const { api } = this;
    const options = api.create('createSessionOptions');
    const cuda = api.create('createCudaOptions');
    try {
      const settings = providerSettings(this.#options);
      const names = Object.keys(settings);
      api.check('updateCudaOptions', cuda, names, Object.values(settings), names.length);
      api.check('addCudaProvider', options, cuda);
      const allOptimizations = 99;
      api.check('setOptimizationLevel', options, allOptimizations);
      api.check('disableSessionThreads', options);
      // Shapes change from call to call, so plans of earlier shapes are of no use.
      api.check('disableMemPattern', options);
      api.check('addSessionConfig', options, 'session.disable_cpu_ep_fallback', '1');
      const handle = api.create(
        'createSession',
        this.#environment,
        model,
        model.byteLength,
        options,
        this.#packed,
      );
      return new OrtSession(this, handle);
    } finally {
      api.release('releaseCudaOptions', cuda);
      api.release('releaseSessionOptions', options);
    }
  }

  /** Values at a device address; the memory must outlive the tensor. */
  tensor(type: OnnxType, address: bigint, shape: readonly number[]): OrtTensor {
    return new OrtTensor(this.#device, { type, pointer: address }, shape);
  }

  /** Values in host memory, for the few inputs that operators read there. */
  hostTensor<D extends TensorData>(data: D, shape: readonly number[]): OrtTensor<D> {
    return new OrtTensor(this.#host, data, shape);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    const { api } = this;
    api.release('releasePackedWeights', this.#packed);
    api.release('releaseRunOptions', this.runOptions);
    api.release('releaseMemory', this.#device.memory);
    api.release('releaseMemory', this.#host.memory);
    api.release('releaseEnv', this.#environment);
  }
}

function providerSettings({ deviceIndex, stream }: OrtDeviceOptions): Record<string, string> {
  return {
    device_id: String(deviceIndex),
    has_user_compute_stream: '1',
    user_compute_stream: String(stream),
    // Activations have few sizes: taking twice as much at every growth would waste memory.
    arena_extend_strategy: 'kSameAsRequested',
  };
}

/** The host only starts kernels: one thread will do. */
function createEnvironment(api: OrtApi): Handle {
  const threading = api.create('createThreading');
  try {
    api.check('setThreads', threading, 1);
    const warnings = 3;
    return api.create('createEnv', warnings, 'readonce', threading);
  } finally {
    api.release('releaseThreading', threading);
  }
}
