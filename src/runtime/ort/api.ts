import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import koffi from 'koffi';
import { asReadonceError, ReadonceError } from '../../core/errors.ts';

/**
 * ONNX Runtime's C API by FFI: every table index and signature we use is in this file. The table is
 * append-only, so indices hold for later versions, but behaviour was verified on this one only.
 */
export const ortVersion = '1.29.0';
const apiVersion = 29;

/** An opaque pointer of the C API. */
export type Handle = unknown;

/** Index in `OrtApi` and C signature. A `void *` result is an `OrtStatus`, null if all is well. */
const functions = {
  errorMessage: [2, 'const char *ortErrorMessage(void *status)'],
  createSessionOptions: [10, 'void *ortSessionOptions(_Out_ void **options)'],
  disableMemPattern: [17, 'void *ortDisableMemPattern(void *options)'],
  setOptimizationLevel: [23, 'void *ortOptimizationLevel(void *options, int level)'],
  createRunOptions: [39, 'void *ortRunOptions(_Out_ void **options)'],
  createTensor: [
    49,
    'void *ortTensor(void *memory, void *data, size_t size, int64_t *dims, size_t rank, int type, _Out_ void **value)',
  ],
  createMemory: [
    68,
    'void *ortMemory(const char *name, int allocator, int device, int type, _Out_ void **memory)',
  ],
  createCpuMemory: [69, 'void *ortCpuMemory(int allocator, int type, _Out_ void **memory)'],
  releaseEnv: [92, 'void ortReleaseEnv(void *env)'],
  releaseStatus: [93, 'void ortReleaseStatus(void *status)'],
  releaseMemory: [94, 'void ortReleaseMemory(void *memory)'],
  releaseSession: [95, 'void ortReleaseSession(void *session)'],
  releaseValue: [96, 'void ortReleaseValue(void *value)'],
  releaseRunOptions: [97, 'void ortReleaseRunOptions(void *options)'],
  releaseSessionOptions: [100, 'void ortReleaseSessionOptions(void *options)'],
  createEnv: [
    119,
    'void *ortCreateEnv(int level, const char *name, void *threading, _Out_ void **env)',
  ],
  disableSessionThreads: [120, 'void *ortDisableSessionThreads(void *options)'],
  createThreading: [121, 'void *ortThreading(_Out_ void **threading)'],
  releaseThreading: [122, 'void ortReleaseThreading(void *threading)'],
  addSessionConfig: [
    130,
    'void *ortSessionConfig(void *options, const char *key, const char *value)',
  ],
  run: [133, 'void *ortRun(void *session, void *options, void *binding)'],
  createBinding: [134, 'void *ortBinding(void *session, _Out_ void **binding)'],
  releaseBinding: [135, 'void ortReleaseBinding(void *binding)'],
  bindInput: [136, 'void *ortBindInput(void *binding, const char *name, void *value)'],
  bindOutput: [137, 'void *ortBindOutput(void *binding, const char *name, void *value)'],
  registerAllocator: [144, 'void *ortAllocator(void *env, void *memory, void *arena)'],
  setThreads: [147, 'void *ortThreads(void *threading, int threads)'],
  setSpinning: [149, 'void *ortSpinning(void *threading, int allowed)'],
  addInitializer: [150, 'void *ortAddInitializer(void *options, const char *name, void *value)'],
  addRunConfig: [165, 'void *ortRunConfig(void *options, const char *key, const char *value)'],
  createPackedWeights: [166, 'void *ortPackedWeights(_Out_ void **container)'],
  releasePackedWeights: [167, 'void ortReleasePackedWeights(void *container)'],
  createSession: [
    169,
    'void *ortSession(void *env, void *model, size_t size, void *options, void *packed, _Out_ void **out)',
  ],
  addCudaProvider: [204, 'void *ortAddCuda(void *options, void *cuda)'],
  createCudaOptions: [205, 'void *ortCudaOptions(_Out_ void **options)'],
  updateCudaOptions: [
    206,
    'void *ortUpdateCudaOptions(void *options, const char **keys, const char **values, size_t count)',
  ],
  releaseCudaOptions: [208, 'void ortReleaseCudaOptions(void *options)'],
} as const;

type FunctionName = keyof typeof functions;
type Call = (...args: readonly unknown[]) => unknown;

/** The loaded library. Functions that return a status throw; the others return their value. */
export interface OrtApi {
  /** Calls a status-returning function; a bad status becomes a `ReadonceError`. */
  check(name: FunctionName, ...args: readonly unknown[]): void;
  /** Calls a status-returning function whose last parameter is an out pointer, and returns it. */
  create(name: FunctionName, ...args: readonly unknown[]): Handle;
  /** Calls a `release…` function. */
  release(name: FunctionName, handle: Handle): void;
}

let loaded: OrtApi | undefined;

/**
 * Loads the `libonnxruntime` that onnxruntime-node ships, once a process.
 * @throws ReadonceError `engine_unavailable` if it is missing or another version.
 */
export function loadOrt(): OrtApi {
  loaded ??= openOrt(libraryPath());
  return loaded;
}

/**
 * The library's path, whether or not it is there; what ONNX Runtime loads later, such as the CUDA
 * provider, it looks for in the same folder.
 * @throws ReadonceError `engine_unavailable` on a system that has none
 */
export function libraryPath(): string {
  const { platform, arch } = process;
  const names: Readonly<Record<string, string>> = {
    linux: 'libonnxruntime.so.1',
    darwin: `libonnxruntime.${ortVersion}.dylib`,
    win32: 'onnxruntime.dll',
  };
  const name = names[platform];
  if (name === undefined) {
    throw new ReadonceError(
      'engine_unavailable',
      `Expected Linux, macOS or Windows for ONNX Runtime but got ${platform}`,
    );
  }
  const manifest = createRequire(import.meta.url).resolve('onnxruntime-node/package.json');
  return join(dirname(manifest), 'bin', 'napi-v6', platform, arch, name);
}

function openOrt(path: string): OrtApi {
  const table = openTable(path);
  const calls = new Map<FunctionName, Call>();
  const call = (name: FunctionName): Call => {
    let found = calls.get(name);
    if (found === undefined) {
      const [index, signature] = functions[name];
      found = functionAt(table, index, signature);
      calls.set(name, found);
    }
    return found;
  };
  const check = (name: FunctionName, ...args: readonly unknown[]): void => {
    const status = call(name)(...args);
    if (status === null) return;
    const message = String(call('errorMessage')(status));
    call('releaseStatus')(status);
    throw ortError(message);
  };
  return {
    check,
    create: (name, ...args) => {
      const out: [Handle] = [null];
      check(name, ...args, out);
      return out[0];
    },
    release: (name, handle) => {
      call(name)(handle);
    },
  };
}

function openTable(path: string): Handle {
  try {
    // The library would keep a device id and a database of usage events in the user's cache folder,
    // for its maker: what users run is nobody else's business.
    process.env['ORT_DISABLE_TELEMETRY'] = '1';
    const library = koffi.load(path);
    keptAlive.push(library);
    const base = library.func('void *OrtGetApiBase()')() as Handle;
    const version = String(functionAt(base, 1, 'const char *ortVersionString()')());
    if (version !== ortVersion) {
      throw new ReadonceError(
        'engine_unavailable',
        `Expected ONNX Runtime ${ortVersion} but ${path} is ${version}: run npm ci`,
      );
    }
    return functionAt(base, 0, 'void *ortGetApi(uint32_t version)')(apiVersion);
  } catch (error) {
    if (error instanceof ReadonceError) throw error;
    throw new ReadonceError(
      'engine_unavailable',
      `Expected ONNX Runtime's library at ${path} but loading it failed: ` +
        `${asReadonceError(error).message}. Run npm ci`,
      { cause: error },
    );
  }
}

/** koffi frees libraries and prototypes that nothing in JS refers to, though functions use them. */
const keptAlive: unknown[] = [];

function functionAt(table: Handle, index: number, signature: string): Call {
  const pointer = koffi.decode(table, index * koffi.sizeof('void *'), 'void *') as Handle;
  const prototype = koffi.proto(signature);
  keptAlive.push(prototype);
  return koffi.decode(pointer, prototype) as Call;
}

function ortError(message: string): ReadonceError {
  const outOfMemory = /failed to allocate|out of memory|bad_alloc/i.test(message);
  return new ReadonceError(
    outOfMemory ? 'out_of_memory' : 'internal',
    `ONNX Runtime failed: ${message}`,
  );
}
