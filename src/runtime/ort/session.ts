import type { Handle, OrtApi } from './api.ts';
import type { TensorRef } from '../../model/checkpoint.ts';
import { SharedWeights } from './shared-weights.ts';
import { OrtTensor, type TensorData } from './tensor.ts';

/** What all sessions of a model run with. */
export interface OrtEnvironmentOptions {
  /** Threads of one operator. */
  readonly threads: number;
  /** The weights that all sessions share. */
  readonly tensors: Iterable<TensorRef>;
}

/** What the sessions of one model share: ONNX Runtime's state, and the weights. */
export class OrtEnvironment {
  readonly api: OrtApi;
  readonly memory: Handle;
  readonly runOptions: Handle;
  readonly #environment: Handle;
  readonly #weights: SharedWeights;
  /** Weights in the layout of the CPU's matrix kernels, one copy for all sessions. */
  readonly #packed: Handle;
  #open = true;

  constructor(api: OrtApi, options: OrtEnvironmentOptions) {
    this.api = api;
    this.#environment = createEnvironment(api, options.threads);
    const [deviceAllocator, arena, defaultMemory] = [0, 1, 0];
    this.memory = api.create('createCpuMemory', deviceAllocator, defaultMemory);
    const arenaMemory = api.create('createCpuMemory', arena, defaultMemory);
    api.check('registerAllocator', this.#environment, arenaMemory, null);
    api.release('releaseMemory', arenaMemory);
    this.runOptions = api.create('createRunOptions');
    this.#packed = api.create('createPackedWeights');
    this.#weights = new SharedWeights(this, options.tensors);
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
      api.check('disableSessionThreads', options);
      // Shapes change from call to call, so plans of earlier shapes are of no use.
      api.check('disableMemPattern', options);
      for (const [key, value] of Object.entries(sessionConfig)) {
        api.check('addSessionConfig', options, key, value);
      }
      const folderKey = 'session.model_external_initializers_file_folder_path';
      api.check('addSessionConfig', options, folderKey, weightsFolder);
      for (const [name, tensor] of this.#weights.tensors) {
        api.check('addInitializer', options, name, tensor.handle);
      }
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
      api.release('releaseSessionOptions', options);
    }
  }

  /** After making sessions: see `SharedWeights.releasePages`. */
  releasePages(): void {
    this.#weights.releasePages();
  }

  tensor<D extends TensorData>(data: D, shape: readonly number[]): OrtTensor<D> {
    return new OrtTensor(this, data, shape);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#weights.close();
    this.api.release('releasePackedWeights', this.#packed);
    this.api.release('releaseRunOptions', this.runOptions);
    this.api.release('releaseMemory', this.memory);
    this.api.release('releaseEnv', this.#environment);
  }
}

const sessionConfig = {
  // Sessions take turns: what one needs while it runs, the next one can have.
  'session.use_env_allocators': '1',
};

/**
 * One pool of threads for all sessions: those of an idle one would only be in the way. A thread
 * without work sleeps. By default it would go on spinning for many milliseconds, most of a call:
 * with the machine to itself a step of one request was then about a fifth shorter, but beside other
 * busy processes, as a server's clients can be, calls took about twice the CPU time and longer.
 */
function createEnvironment(api: OrtApi, threads: number): Handle {
  const threading = api.create('createThreading');
  try {
    api.check('setThreads', threading, threads);
    const neverSpin = 0;
    api.check('setSpinning', threading, neverSpin);
    const warnings = 3;
    return api.create('createEnv', warnings, 'readonce', threading);
  } finally {
    api.release('releaseThreading', threading);
  }
}

/** What a session is run with. */
export interface SessionScope {
  readonly api: OrtApi;
  readonly runOptions: Handle;
}

/** A graph ready to run. */
export class OrtSession {
  readonly environment: SessionScope;
  readonly handle: Handle;
  #open = true;

  constructor(environment: SessionScope, handle: Handle) {
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
