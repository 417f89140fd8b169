import { assert } from '../../core/assert.ts';
import type { Closeable } from '../../core/closeable.ts';
import type { CudaDevice } from './device.ts';

/** CU_MEM_ALLOCATION_TYPE_PINNED, …LOCATION_TYPE_DEVICE, …ACCESS_FLAGS_PROT_READWRITE. */
const [pinned, onDevice, readAndWrite] = [1, 1, 3];
/** CU_MEM_ALLOC_GRANULARITY_MINIMUM. */
const minimum = 0;
/** Bytes of CUmemAllocationProp. */
const propertiesBytes = 32;

/**
 * A run of device addresses that is backed by memory chunk by chunk, as it is needed: kernels see
 * one array, other programs keep what is not used.
 */
export class GrowingMemory implements Closeable {
  readonly address: bigint;
  readonly chunkBytes: number;
  readonly #device: CudaDevice;
  readonly #reservedBytes: number;
  readonly #properties: Uint8Array;
  readonly #access: Int32Array;
  /** By chunk: the handle of the memory behind it. */
  readonly #handles = new Map<number, bigint>();
  #open = true;

  /**
   * @param chunkBytes a multiple of `granularity`
   * @param mostChunks addresses are reserved for so many; they cost nothing
   */
  constructor(
    device: CudaDevice,
    { chunkBytes, mostChunks }: { readonly chunkBytes: number; readonly mostChunks: number },
  ) {
    assert(chunkBytes % granularity(device) === 0, 'chunks of whole granules');
    this.#device = device;
    this.chunkBytes = chunkBytes;
    this.#properties = allocationProperties(device);
    this.#access = Int32Array.of(onDevice, device.index, readAndWrite);
    this.#reservedBytes = chunkBytes * mostChunks;
    this.address = device.driver.create('cuMemAddressReserve', this.#reservedBytes, 0, 0n, 0n);
  }

  /** Bytes of the device's memory that back it. */
  get heldBytes(): number {
    return this.#handles.size * this.chunkBytes;
  }

  /** @throws ReadonceError `out_of_memory` */
  back(chunk: number): void {
    const { driver } = this.#device;
    assert(!this.#handles.has(chunk), 'a chunk is backed once');
    const handle = driver.create('cuMemCreate', this.chunkBytes, this.#properties, 0n);
    const address = this.#chunkAddress(chunk);
    try {
      driver.call('cuMemMap', address, this.chunkBytes, 0, handle, 0n);
    } catch (error) {
      driver.call('cuMemRelease', handle);
      throw error;
    }
    this.#handles.set(chunk, handle);
    try {
      driver.call('cuMemSetAccess', address, this.chunkBytes, this.#access, 1);
    } catch (error) {
      this.release(chunk);
      throw error;
    }
  }

  /** Gives a chunk's memory back; no kernel may use it any more. */
  release(chunk: number): void {
    const { driver } = this.#device;
    const handle = this.#handles.get(chunk);
    assert(handle !== undefined, 'a chunk that is backed');
    driver.call('cuMemUnmap', this.#chunkAddress(chunk), this.chunkBytes);
    driver.call('cuMemRelease', handle);
    this.#handles.delete(chunk);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    for (const chunk of this.#handles.keys()) this.release(chunk);
    this.#device.driver.call('cuMemAddressFree', this.address, this.#reservedBytes);
  }

  #chunkAddress(chunk: number): bigint {
    return this.address + BigInt(chunk * this.chunkBytes);
  }
}

/**
 * As `GrowingMemory`, in chunks of any size: so many of them that they are whole granules are
 * backed together, as long as one of them is needed.
 */
export class SharedGrowingMemory implements Closeable {
  readonly chunkBytes: number;
  readonly #memory: GrowingMemory;
  readonly #together: number;
  /** Chunks that need what is backed together, by its number. */
  readonly #needed = new Map<number, number>();

  /**
   * @param chunkBytes a whole number of them, a power of two, makes a granule; or granules
   * @param mostChunks as of `GrowingMemory`
   */
  constructor(
    device: CudaDevice,
    { chunkBytes, mostChunks }: { readonly chunkBytes: number; readonly mostChunks: number },
  ) {
    this.chunkBytes = chunkBytes;
    this.#together = Math.max(1, granularity(device) / chunkBytes);
    this.#memory = new GrowingMemory(device, {
      chunkBytes: this.#together * chunkBytes,
      mostChunks: Math.ceil(mostChunks / this.#together),
    });
  }

  get address(): bigint {
    return this.#memory.address;
  }

  /** Bytes of the device's memory that back it. */
  get heldBytes(): number {
    return this.#memory.heldBytes;
  }

  /** @throws ReadonceError `out_of_memory` */
  back(chunk: number): void {
    const group = Math.floor(chunk / this.#together);
    const needed = this.#needed.get(group) ?? 0;
    if (needed === 0) this.#memory.back(group);
    this.#needed.set(group, needed + 1);
  }

  /** Says that a chunk is not needed any more; no kernel may use it. */
  release(chunk: number): void {
    const group = Math.floor(chunk / this.#together);
    const needed = this.#needed.get(group) ?? 0;
    assert(needed > 0, 'a chunk that is backed');
    if (needed === 1) this.#memory.release(group);
    this.#needed.set(group, needed - 1);
  }

  close(): void {
    this.#memory.close();
  }
}

/** What chunks are multiples of, bytes. */
export function granularity(device: CudaDevice): number {
  const properties = allocationProperties(device);
  return Number(device.driver.create('cuMemGetAllocationGranularity', properties, minimum));
}

/** CUmemAllocationProp: type, no handle types, location (type, id), and nothing else. */
function allocationProperties(device: CudaDevice): Uint8Array {
  const properties = new Uint8Array(propertiesBytes);
  new Int32Array(properties.buffer).set([pinned, 0, onDevice, device.index]);
  return properties;
}
