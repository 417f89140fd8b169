import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { assert } from '../../core/assert.ts';
import type { Closeable } from '../../core/closeable.ts';
import { asReadonceError, ReadonceError } from '../../core/errors.ts';
import type { CudaDevice } from './device.ts';
import type { CudaDriver } from './driver-api.ts';
import { kernelsAreOld } from './kernel-sources.ts';
import { LaunchBuffer, type Grid, type KernelArgument } from './launch-buffer.ts';

/** How a kernel is launched. */
export interface Launch {
  /** The stream that it is put into; all that is asked of it is its handle. */
  readonly stream: { readonly handle: bigint };
  readonly grid: Grid;
  /** Threads of a block. */
  readonly threads: number;
  /** Dynamic shared memory of a block; 0 by default. */
  readonly sharedBytes?: number;
  /**
   * Lets the kernel begin before the one ahead of it in the stream has ended, on cards that can
   * (compute capability 9.0). Only for kernels that wait for it themselves; false by default.
   */
  readonly early?: boolean;
}

/** What launches kernels by name. */
export interface KernelLauncher {
  launch(name: string, launch: Launch, args: readonly KernelArgument[]): void;
  /** Thread blocks of a kernel that the whole card runs at once. */
  residentBlocks(
    name: string,
    shape: { readonly threads: number; readonly sharedBytes: number },
  ): number;
}

/** What cards allow without being asked. */
const defaultSharedBytes = 48 * 1024;
/** CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES. */
const maxDynamicShared = 8;
const earliestMajor = 9;
/** The kernels are built for sm_80 and later. */
const oldestMajor = 8;

interface KernelFunction {
  readonly handle: bigint;
  allowedSharedBytes: number;
}

/**
 * Where `npm run build:native` leaves the kernels: beside the compiled program, or, when it runs
 * from its sources, in their `dist`.
 */
export function defaultKernelsPath(): string {
  // From src/runtime/cuda, or from dist/src/runtime/cuda.
  const isSource = import.meta.url.endsWith('.ts');
  const native = isSource ? '../../../dist/native/' : '../../../native/';
  return fileURLToPath(new URL(`${native}kernels.fatbin`, import.meta.url));
}

/**
 * Our kernels, loaded on a device. A launch costs this thread a few microseconds: handles are
 * cached, and arguments go through one buffer.
 */
export class KernelModule implements KernelLauncher, Closeable {
  readonly #driver: CudaDriver;
  readonly #multiprocessors: number;
  readonly #canBeEarly: boolean;
  readonly #module: bigint;
  readonly #functions = new Map<string, KernelFunction>();
  readonly #buffer = new LaunchBuffer();
  #open = true;

  private constructor(device: CudaDevice, module: bigint) {
    this.#driver = device.driver;
    this.#multiprocessors = device.multiprocessors;
    this.#canBeEarly = device.computeCapability.major >= earliestMajor;
    this.#module = module;
  }

  /**
   * Loads a fatbin onto a device, which must be the current one.
   * @param path by default, where `npm run build:native` leaves it
   * @throws ReadonceError `engine_unavailable` if the file is missing, was built of other sources
   * than are there (looked at in its usual place), or has nothing that this card and driver can run
   */
  static load(device: CudaDevice, path: string = defaultKernelsPath()): KernelModule {
    if (path === defaultKernelsPath() && existsSync(path) && kernelsAreOld()) throw outdated(path);
    const { major, minor } = device.computeCapability;
    if (major < oldestMajor) {
      throw new ReadonceError(
        'engine_unavailable',
        `Expected a GPU of compute capability ${oldestMajor}.0 or higher but ${device.name} has ` +
          `${major}.${minor}: use another GPU, or the CPU`,
      );
    }
    const module = device.driver.create('cuModuleLoadData', readImage(path));
    return new KernelModule(device, module);
  }

  launch(name: string, launch: Launch, args: readonly KernelArgument[]): void {
    const { stream, grid, threads, sharedBytes = 0, early = false } = launch;
    const { handle } = this.#function(name, sharedBytes);
    this.#buffer.encode(
      { stream: stream.handle, grid, threads, sharedBytes, early: early && this.#canBeEarly },
      args,
    );
    const { configAddress, pointersAddress } = this.#buffer;
    this.#driver.call('cuLaunchKernelEx', configAddress, handle, pointersAddress, null);
  }

  residentBlocks(
    name: string,
    shape: { readonly threads: number; readonly sharedBytes: number },
  ): number {
    const { threads, sharedBytes } = shape;
    const { handle } = this.#function(name, sharedBytes);
    const perMultiprocessor = this.#driver.integer(
      'cuOccupancyMaxActiveBlocksPerMultiprocessor',
      handle,
      threads,
      sharedBytes,
    );
    return perMultiprocessor * this.#multiprocessors;
  }

  /** Unloads the kernels; after all work and all graphs with them are done and closed. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#buffer.close();
    this.#driver.call('cuModuleUnload', this.#module);
  }

  #function(name: string, sharedBytes: number): KernelFunction {
    assert(this.#open, 'kernels are loaded');
    let found = this.#functions.get(name);
    if (found === undefined) {
      const handle = this.#driver.create('cuModuleGetFunction', this.#module, name);
      found = { handle, allowedSharedBytes: defaultSharedBytes };
      this.#functions.set(name, found);
    }
    if (sharedBytes > found.allowedSharedBytes) {
      this.#driver.call('cuFuncSetAttribute', found.handle, maxDynamicShared, sharedBytes);
      found.allowedSharedBytes = sharedBytes;
    }
    return found;
  }
}

function outdated(path: string): ReadonceError {
  return new ReadonceError(
    'engine_unavailable',
    `Expected the CUDA kernels of these sources but ${path} was built of others: build them again ` +
      'with "npm run build:native", or use the CPU',
    { details: { path } },
  );
}

function readImage(path: string): Uint8Array {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new ReadonceError(
      'engine_unavailable',
      `Expected the CUDA kernels at ${path} but reading them failed: ` +
        `${asReadonceError(error).message}. Build them with "npm run build:native", or use the CPU`,
      { cause: error, details: { path } },
    );
  }
}
