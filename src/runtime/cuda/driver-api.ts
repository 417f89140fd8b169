import koffi from 'koffi';
import { asReadonceError, ReadonceError } from '../../core/errors.ts';
import { driverError, driverUpdate } from './driver-error.ts';

/**
 * CUDA's driver API by FFI: every name and C signature that we use is in this file. Names are those
 * of the library, not of `cuda.h`, which maps many to a later `_v2`. Device addresses (CUdeviceptr)
 * and opaque handles are `uint64_t`: `bigint`s on our side, whose layout nobody looks into.
 */
const signatures = {
  cuInit: 'int cuInit(unsigned int flags)',
  cuDriverGetVersion: 'int cuDriverGetVersion(_Out_ int *version)',
  cuGetErrorName: 'int cuGetErrorName(int status, _Out_ void *text)',
  cuGetErrorString: 'int cuGetErrorString(int status, _Out_ void *text)',

  cuDeviceGetCount: 'int cuDeviceGetCount(_Out_ int *count)',
  cuDeviceGet: 'int cuDeviceGet(_Out_ int *device, int ordinal)',
  cuDeviceGetName: 'int cuDeviceGetName(_Out_ void *name, int length, int device)',
  cuDeviceTotalMem_v2: 'int cuDeviceTotalMem_v2(_Out_ uint64_t *bytes, int device)',
  cuDeviceGetAttribute: 'int cuDeviceGetAttribute(_Out_ int *value, int attribute, int device)',
  cuDevicePrimaryCtxRetain: 'int cuDevicePrimaryCtxRetain(_Out_ uint64_t *context, int device)',
  cuDevicePrimaryCtxRelease_v2: 'int cuDevicePrimaryCtxRelease_v2(int device)',
  cuCtxSetCurrent: 'int cuCtxSetCurrent(uint64_t context)',

  cuMemGetInfo_v2: 'int cuMemGetInfo_v2(_Out_ uint64_t *free, _Out_ uint64_t *total)',
  cuMemAlloc_v2: 'int cuMemAlloc_v2(_Out_ uint64_t *address, size_t bytes)',
  cuMemFree_v2: 'int cuMemFree_v2(uint64_t address)',
  cuMemHostAlloc: 'int cuMemHostAlloc(_Out_ uint64_t *address, size_t bytes, unsigned int flags)',
  cuMemFreeHost: 'int cuMemFreeHost(uint64_t address)',
  cuMemAddressReserve:
    'int cuMemAddressReserve(_Out_ uint64_t *address, size_t bytes, size_t alignment, uint64_t hint, uint64_t flags)',
  cuMemAddressFree: 'int cuMemAddressFree(uint64_t address, size_t bytes)',
  cuMemGetAllocationGranularity:
    'int cuMemGetAllocationGranularity(_Out_ uint64_t *bytes, void *properties, int option)',
  cuMemCreate:
    'int cuMemCreate(_Out_ uint64_t *handle, size_t bytes, void *properties, uint64_t flags)',
  cuMemRelease: 'int cuMemRelease(uint64_t handle)',
  cuMemMap:
    'int cuMemMap(uint64_t address, size_t bytes, size_t offset, uint64_t handle, uint64_t flags)',
  cuMemUnmap: 'int cuMemUnmap(uint64_t address, size_t bytes)',
  cuMemSetAccess: 'int cuMemSetAccess(uint64_t address, size_t bytes, void *access, size_t count)',
  cuMemcpyHtoDAsync_v2:
    'int cuMemcpyHtoDAsync_v2(uint64_t target, void *source, size_t bytes, uint64_t stream)',
  cuMemcpyDtoHAsync_v2:
    'int cuMemcpyDtoHAsync_v2(_Out_ void *target, uint64_t source, size_t bytes, uint64_t stream)',
  cuMemcpyDtoDAsync_v2:
    'int cuMemcpyDtoDAsync_v2(uint64_t target, uint64_t source, size_t bytes, uint64_t stream)',
  cuMemcpy2DAsync_v2: 'int cuMemcpy2DAsync_v2(void *copy, uint64_t stream)',
  cuMemsetD8Async:
    'int cuMemsetD8Async(uint64_t target, unsigned char value, size_t count, uint64_t stream)',
  cuMemsetD32Async:
    'int cuMemsetD32Async(uint64_t target, unsigned int value, size_t count, uint64_t stream)',

  cuStreamCreate: 'int cuStreamCreate(_Out_ uint64_t *stream, unsigned int flags)',
  cuStreamDestroy_v2: 'int cuStreamDestroy_v2(uint64_t stream)',
  cuStreamSynchronize: 'int cuStreamSynchronize(uint64_t stream)',
  cuStreamWaitEvent: 'int cuStreamWaitEvent(uint64_t stream, uint64_t event, unsigned int flags)',
  cuStreamBeginCapture_v2: 'int cuStreamBeginCapture_v2(uint64_t stream, int mode)',
  cuStreamEndCapture: 'int cuStreamEndCapture(uint64_t stream, _Out_ uint64_t *graph)',
  cuGraphInstantiateWithFlags:
    'int cuGraphInstantiateWithFlags(_Out_ uint64_t *executable, uint64_t graph, uint64_t flags)',
  cuGraphLaunch: 'int cuGraphLaunch(uint64_t executable, uint64_t stream)',
  cuGraphDestroy: 'int cuGraphDestroy(uint64_t graph)',
  cuGraphExecDestroy: 'int cuGraphExecDestroy(uint64_t executable)',
  cuEventCreate: 'int cuEventCreate(_Out_ uint64_t *event, unsigned int flags)',
  cuEventRecord: 'int cuEventRecord(uint64_t event, uint64_t stream)',
  cuEventSynchronize: 'int cuEventSynchronize(uint64_t event)',
  cuEventElapsedTime: 'int cuEventElapsedTime(_Out_ float *ms, uint64_t start, uint64_t end)',
  cuEventDestroy_v2: 'int cuEventDestroy_v2(uint64_t event)',

  cuModuleLoadData: 'int cuModuleLoadData(_Out_ uint64_t *module, void *image)',
  cuModuleUnload: 'int cuModuleUnload(uint64_t module)',
  cuModuleGetFunction:
    'int cuModuleGetFunction(_Out_ uint64_t *function, uint64_t module, const char *name)',
  cuFuncSetAttribute: 'int cuFuncSetAttribute(uint64_t function, int attribute, int value)',
  cuOccupancyMaxActiveBlocksPerMultiprocessor:
    'int cuOccupancyMaxActiveBlocksPerMultiprocessor(_Out_ int *blocks, uint64_t function, int threads, size_t sharedBytes)',
  cuLaunchKernelEx:
    'int cuLaunchKernelEx(void *config, uint64_t function, void *arguments, void *extra)',
} as const;

/** A function of the driver, by its name in the library. */
export type DriverFunction = keyof typeof signatures;

/** What the functions take; an array is passed as the address of its first element. */
export type DriverArgument = bigint | number | string | ArrayBufferView | null;

/** The library itself: a call gives CUDA's status, 0 for success. Tests put a fake in its place. */
export interface DriverLibrary {
  invoke(name: DriverFunction, args: readonly DriverArgument[]): number;
  /** The string at an address, which ends with a zero byte. */
  text(address: bigint): string;
}

/** The driver's functions. A bad status becomes a `ReadonceError` (see `driverError`). */
export interface CudaDriver {
  call(name: DriverFunction, ...args: readonly DriverArgument[]): void;
  /** Calls a function whose first parameter points to a result of 64 bits, and returns that. */
  create(name: DriverFunction, ...args: readonly DriverArgument[]): bigint;
  /** Calls a function whose first parameter points to an `int`, and returns that. */
  integer(name: DriverFunction, ...args: readonly DriverArgument[]): number;
}

let loaded: CudaDriver | undefined;

/**
 * Loads the NVIDIA driver's library and initialises it, once a process.
 * @throws ReadonceError `engine_unavailable` without the library, a GPU, or a driver that is new
 * enough; the message says what to do
 */
export function loadCuda(): CudaDriver {
  if (loaded === undefined) {
    const driver = createDriver(openLibrary());
    driver.call('cuInit', 0);
    loaded = driver;
  }
  return loaded;
}

/** Puts the checks of statuses around a library. */
export function createDriver(library: DriverLibrary): CudaDriver {
  const text = (name: 'cuGetErrorName' | 'cuGetErrorString', status: number): string => {
    const address = new BigUint64Array(1);
    const failed = library.invoke(name, [status, address]) !== 0;
    return failed ? 'unknown' : library.text(address[0] ?? 0n);
  };
  const call: CudaDriver['call'] = (name, ...args) => {
    const status = library.invoke(name, args);
    if (status === 0) return;
    throw driverError({
      call: name,
      status,
      name: text('cuGetErrorName', status),
      text: text('cuGetErrorString', status),
    });
  };
  return {
    call,
    create: (name, ...args) => {
      const result = new BigUint64Array(1);
      call(name, result, ...args);
      return result[0] ?? 0n;
    },
    integer: (name, ...args) => {
      const result = new Int32Array(1);
      call(name, result, ...args);
      return result[0] ?? 0;
    },
  };
}

/** koffi frees libraries that nothing in JS refers to, though their functions are in use. */
const keptAlive: unknown[] = [];

function openLibrary(): DriverLibrary {
  const file = process.platform === 'win32' ? 'nvcuda.dll' : 'libcuda.so.1';
  const library = loadLibrary(file);
  keptAlive.push(library);
  const functions = new Map<DriverFunction, (...args: readonly DriverArgument[]) => number>();
  return {
    invoke: (name, args) => {
      let found = functions.get(name);
      if (found === undefined) {
        found = findFunction(library, name);
        functions.set(name, found);
      }
      return found(...args);
    },
    text: (address) => koffi.decode.string(address),
  };
}

function loadLibrary(file: string): ReturnType<typeof koffi.load> {
  try {
    return koffi.load(file);
  } catch (error) {
    throw new ReadonceError(
      'engine_unavailable',
      `Expected the NVIDIA driver's library ${file} but loading it failed: ` +
        `${asReadonceError(error).message}. Install the NVIDIA driver (${driverUpdate}); in a ` +
        'container, start it with GPU access; or use the CPU',
      { cause: error, details: { library: file } },
    );
  }
}

function findFunction(
  library: ReturnType<typeof koffi.load>,
  name: DriverFunction,
): (...args: readonly DriverArgument[]) => number {
  try {
    return library.func(signatures[name]) as (...args: readonly DriverArgument[]) => number;
  } catch (error) {
    throw new ReadonceError(
      'engine_unavailable',
      `Expected an NVIDIA driver with ${name} but this one has none: update it to ${driverUpdate}`,
      { cause: error, details: { call: name } },
    );
  }
}

/** Memory outside the garbage collector's reach, at an address that never changes. */
export interface StableMemory {
  readonly address: bigint;
  readonly buffer: ArrayBuffer;
  /** Frees it; `buffer` must not be touched afterwards. */
  free(): void;
}

/** Zeroed memory that C may keep pointers into. Needs no GPU. */
export function allocateStable(sizeBytes: number): StableMemory {
  const address: unknown = koffi.alloc('uint8_t', sizeBytes);
  return {
    address: koffi.address(address),
    buffer: koffi.view(address, sizeBytes),
    free: () => {
      koffi.free(address);
    },
  };
}

/** Where an array's bytes lie. Valid while the array is referred to and its buffer not detached. */
export function addressOf(array: ArrayBufferView): bigint {
  return koffi.address(array);
}

/** Memory at an address as bytes, without a copy. Must not be touched once it is freed. */
export function bytesAt(address: bigint, sizeBytes: number): Uint8Array {
  return new Uint8Array(koffi.view(address, sizeBytes));
}
