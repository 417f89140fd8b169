import { constants } from 'node:buffer';
import { assert } from '../../core/assert.ts';
import type { Closeable } from '../../core/closeable.ts';
import { ReadonceError } from '../../core/errors.ts';
import { bytesAt, loadCuda, type CudaDriver } from './driver-api.ts';
import { driverUpdate } from './driver-error.ts';
import { CudaStream, type HostPart } from './stream.ts';

/** A card's architecture: 9.0 is Hopper. */
export interface ComputeCapability {
  readonly major: number;
  readonly minor: number;
}

/** What a GPU says about itself. */
export interface CudaDeviceInfo {
  /** Its place in the driver's order, from 0 on; CUDA_VISIBLE_DEVICES changes it. */
  readonly index: number;
  readonly name: string;
  readonly computeCapability: ComputeCapability;
  readonly multiprocessors: number;
  readonly totalBytes: number;
}

const attributes = { multiprocessors: 16, capabilityMajor: 75, capabilityMinor: 76 } as const;
const nameBytes = 256;
/** CUDA 12.0: the first driver that has all functions we use. */
const oldestDriver = 12000;

/**
 * The GPUs that the driver shows to this process.
 * @throws ReadonceError `engine_unavailable` if there is no driver or no GPU
 */
export function cudaDevices(driver: CudaDriver = loadCuda()): readonly CudaDeviceInfo[] {
  const count = driver.integer('cuDeviceGetCount');
  return Array.from({ length: count }, (_, index) => describe(driver, index).info);
}

function describe(
  driver: CudaDriver,
  index: number,
): { readonly device: number; readonly info: CudaDeviceInfo } {
  const device = driver.integer('cuDeviceGet', index);
  const attribute = (which: number): number =>
    driver.integer('cuDeviceGetAttribute', which, device);
  const name = new Uint8Array(nameBytes);
  driver.call('cuDeviceGetName', name, nameBytes, device);
  const info: CudaDeviceInfo = {
    index,
    name: Buffer.from(name.subarray(0, Math.max(name.indexOf(0), 0))).toString(),
    computeCapability: {
      major: attribute(attributes.capabilityMajor),
      minor: attribute(attributes.capabilityMinor),
    },
    multiprocessors: attribute(attributes.multiprocessors),
    totalBytes: Number(driver.create('cuDeviceTotalMem_v2', device)),
  };
  return { device, info };
}

/**
 * A GPU in use: its primary context, which is the one that ONNX Runtime's CUDA provider works in,
 * so their memory and streams may be mixed. A context belongs to the thread that made it current:
 * a device and all that comes from it is used on the thread that opened it.
 */
export class CudaDevice implements Closeable, CudaDeviceInfo {
  readonly driver: CudaDriver;
  readonly index: number;
  readonly name: string;
  readonly computeCapability: ComputeCapability;
  readonly multiprocessors: number;
  readonly totalBytes: number;
  /** The newest CUDA that the driver knows: 13000 is 13.0. */
  readonly driverVersion: number;
  readonly #device: number;
  readonly #context: bigint;
  #open = true;

  private constructor(driver: CudaDriver, index: number) {
    const { device, info } = describe(driver, index);
    this.driver = driver;
    this.index = index;
    this.name = info.name;
    this.computeCapability = info.computeCapability;
    this.multiprocessors = info.multiprocessors;
    this.totalBytes = info.totalBytes;
    this.driverVersion = driver.integer('cuDriverGetVersion');
    assertDriver(this.driverVersion);
    this.#device = device;
    this.#context = driver.create('cuDevicePrimaryCtxRetain', device);
    this.makeCurrent();
  }

  /**
   * Opens a GPU and makes its context the current one of this thread.
   * @throws ReadonceError `engine_unavailable` without a GPU of this index, or a driver that is new
   * enough
   */
  static open(index: number, driver: CudaDriver = loadCuda()): CudaDevice {
    return new CudaDevice(driver, index);
  }

  /** For a thread that uses several devices: what follows is done on this one. */
  makeCurrent(): void {
    this.driver.call('cuCtxSetCurrent', this.#context);
  }

  /** The card's memory at this moment, whoever uses it. */
  memory(): { readonly freeBytes: number; readonly totalBytes: number } {
    const [free, total] = [new BigUint64Array(1), new BigUint64Array(1)];
    this.driver.call('cuMemGetInfo_v2', free, total);
    return { freeBytes: Number(free[0]), totalBytes: Number(total[0]) };
  }

  /**
   * Device memory, uninitialised, aligned to 256 bytes. Slow (it may wait for the device): for
   * arenas, not for each request.
   * @throws ReadonceError `out_of_memory`
   */
  allocate(sizeBytes: number): DeviceMemory {
    assertSize(sizeBytes, 'device memory');
    const address = this.#withFreeBytes(sizeBytes, () =>
      this.driver.create('cuMemAlloc_v2', sizeBytes),
    );
    return new DeviceMemory(this.driver, address, sizeBytes);
  }

  /**
   * Page-locked host memory, which the device copies from and to at full speed while the host does
   * other things, and which kernels may address. Slow to make, and kept from the system's use.
   * @throws ReadonceError `out_of_memory`
   */
  pin(sizeBytes: number): PinnedMemory {
    assertSize(sizeBytes, 'pinned memory');
    assert(sizeBytes <= constants.MAX_LENGTH, `at most ${constants.MAX_LENGTH} bytes are pinned`);
    try {
      const address = this.driver.create('cuMemHostAlloc', sizeBytes, portable);
      return new PinnedMemory(this.driver, address, sizeBytes);
    } catch (error) {
      if (!(error instanceof ReadonceError) || error.code !== 'out_of_memory') throw error;
      throw new ReadonceError(
        'out_of_memory',
        `Expected ${sizeBytes} bytes of host memory that can be page-locked but there are fewer: ` +
          'end other programs, or raise the limit of locked memory',
        { cause: error, details: { ...error.details, sizeBytes, memory: 'host' } },
      );
    }
  }

  /** A queue of work of its own, which waits for no other. */
  createStream(): CudaStream {
    return CudaStream.create(this.driver);
  }

  /** Gives the context back; after all that was made on the device is closed. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.driver.call('cuDevicePrimaryCtxRelease_v2', this.#device);
  }

  #withFreeBytes<T>(sizeBytes: number, allocate: () => T): T {
    try {
      return allocate();
    } catch (error) {
      if (!(error instanceof ReadonceError) || error.code !== 'out_of_memory') throw error;
      const { freeBytes, totalBytes } = this.memory();
      throw new ReadonceError(
        'out_of_memory',
        `Expected ${sizeBytes} free bytes on GPU ${this.index} (${this.name}) but got ` +
          `${freeBytes} of ${totalBytes}: use a smaller model, shorter documents or fewer contexts ` +
          'at once, or end other programs on this GPU',
        { cause: error, details: { ...error.details, sizeBytes, freeBytes, totalBytes } },
      );
    }
  }
}

/** CU_MEMHOSTALLOC_PORTABLE: pinned for every context. */
const portable = 1;

function assertDriver(version: number): void {
  if (version >= oldestDriver) return;
  const [major, minor] = [Math.floor(version / 1000), Math.floor((version % 1000) / 10)];
  throw new ReadonceError(
    'engine_unavailable',
    `Expected an NVIDIA driver for CUDA 12.0 or later but got one for ${major}.${minor}: update it ` +
      `to ${driverUpdate}`,
    { details: { version } },
  );
}

function assertSize(sizeBytes: number, what: string): void {
  assert(Number.isSafeInteger(sizeBytes) && sizeBytes > 0, `${what} of ${sizeBytes} bytes`);
}

/** Memory on the card. Whoever closes it sees to it that no kernel or copy still uses it. */
export class DeviceMemory implements Closeable {
  readonly address: bigint;
  readonly sizeBytes: number;
  readonly #driver: CudaDriver;
  #open = true;

  constructor(driver: CudaDriver, address: bigint, sizeBytes: number) {
    this.#driver = driver;
    this.address = address;
    this.sizeBytes = sizeBytes;
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#driver.call('cuMemFree_v2', this.address);
  }
}

/**
 * Page-locked host memory. `bytes` is the memory itself, not a copy: **after `close` it and all
 * arrays over its buffer must not be touched**, which would end the process.
 */
export class PinnedMemory implements Closeable, HostPart {
  /** For host and device alike. */
  readonly address: bigint;
  readonly sizeBytes: number;
  readonly bytes: Uint8Array;
  readonly #driver: CudaDriver;
  #open = true;

  constructor(driver: CudaDriver, address: bigint, sizeBytes: number) {
    this.#driver = driver;
    this.address = address;
    this.sizeBytes = sizeBytes;
    this.bytes = bytesAt(address, sizeBytes);
  }

  /** A run of its bytes, for copies. */
  part(range: { readonly offsetBytes: number; readonly sizeBytes: number }): HostPart {
    const { offsetBytes, sizeBytes } = range;
    assert(
      offsetBytes >= 0 && sizeBytes >= 0 && offsetBytes + sizeBytes <= this.sizeBytes,
      `bytes ${offsetBytes}+${sizeBytes} lie in ${this.sizeBytes}`,
    );
    return { address: this.address + BigInt(offsetBytes), sizeBytes };
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#driver.call('cuMemFreeHost', this.address);
  }
}
