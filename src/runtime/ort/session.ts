import type { Handle, OrtApi } from './api.ts';
import { OrtTensor, type TensorData } from './tensor.ts';

export interface OrtEnvironmentOptions {
  /** Threads of one operator. */
  readonly threads: number;
}

/** The process-wide state of ONNX Runtime that sessions are created in. */
export class OrtEnvironment {
  readonly api: OrtApi;
  readonly memory: Handle;
  readonly runOptions: Handle;
  readonly #environment: Handle;
  readonly #threads: number;
  #open = true;

  constructor(api: OrtApi, options: OrtEnvironmentOptions) {
    this.api = api;
    this.#threads = options.threads;
    const warnings = 3;
    this.#environment = api.create('createEnv', warnings, 'readonce');
    const [deviceAllocator, defaultMemory] = [0, 0];
    this.memory = api.create('createCpuMemory', deviceAllocator, defaultMemory);
    this.runOptions = api.create('createRunOptions');
  }

  /**
   * @param model an ONNX file's bytes
   * @param weightsFolder where the model's external data lies
   */
  createSession(model: Uint8Array, weightsFolder: string): OrtSession {
    const { api } = this;
    const options = api.create('createSessionOptions');
    try {
      const allOptimizations = 99;
      api.check('setOptimizationLevel', options, allOptimizations);
      api.check('setIntraOpThreads', options, this.#threads);
      // Shapes change from call to call, so plans of earlier shapes are of no use.
      api.check('disableMemPattern', options);
      for (const [key, value] of Object.entries(sessionConfig)) {
        api.check('addSessionConfig', options, key, value);
      }
      const folderKey = 'session.model_external_initializers_file_folder_path';
      api.check('addSessionConfig', options, folderKey, weightsFolder);
      const handle = api.create(
        'createSessionFromArray',
        this.#environment,
        model,
        model.byteLength,
        options,
      );
      return new OrtSession(this, handle);
    } finally {
      api.release('releaseSessionOptions', options);
    }
  }

  tensor(data: TensorData, shape: readonly number[]): OrtTensor {
    return new OrtTensor(this.api, this.memory, data, shape);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.api.release('releaseRunOptions', this.runOptions);
    this.api.release('releaseMemory', this.memory);
    this.api.release('releaseEnv', this.#environment);
  }
}

const sessionConfig = {
  // Weights stay where they are mapped, one copy for all sessions (docs/adr/0001).
  'session.disable_prepacking': '1',
  // Sessions take turns: threads of an idle one must not spin on the cores of the running one.
  'session.force_spinning_stop': '1',
};

/** A graph ready to run. */
export class OrtSession {
  readonly environment: OrtEnvironment;
  readonly handle: Handle;
  #open = true;

  constructor(environment: OrtEnvironment, handle: Handle) {
    this.environment = environment;
    this.handle = handle;
  }

  bind(): OrtBinding {
    return new OrtBinding(this);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.environment.api.release('releaseSession', this.handle);
  }
}

/** Inputs and outputs of a session, kept bound between runs. Tensors stay the caller's. */
export class OrtBinding {
  readonly #session: OrtSession;
  readonly #handle: Handle;
  #open = true;

  constructor(session: OrtSession) {
    this.#session = session;
    this.#handle = session.environment.api.create('createBinding', session.handle);
  }

  input(name: string, tensor: OrtTensor): void {
    this.#session.environment.api.check('bindInput', this.#handle, name, tensor.handle);
  }

  output(name: string, tensor: OrtTensor): void {
    this.#session.environment.api.check('bindOutput', this.#handle, name, tensor.handle);
  }

  /** Runs synchronously; outputs are in the bound memory when it returns. */
  run(): void {
    const { api, runOptions } = this.#session.environment;
    api.check('run', this.#session.handle, runOptions, this.#handle);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#session.environment.api.release('releaseBinding', this.#handle);
  }
}
