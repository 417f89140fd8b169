import { assert } from '../../core/assert.ts';
import type { Closeable } from '../../core/closeable.ts';
import { addressOf, type CudaDriver } from './driver-api.ts';

/** A run of host memory by its address: part of a `PinnedMemory`, or a mapped file's. */
export interface HostPart {
  readonly address: bigint;
  readonly sizeBytes: number;
}

/** Host memory for copies: an array, or memory that JS does not own. */
export type HostMemory = ArrayBufferView | HostPart;

/** A copy of rows, as from a matrix with longer ones. Pitches are bytes from row to row. */
export interface RowCopy {
  readonly target: bigint;
  readonly targetPitchBytes: number;
  readonly source: HostMemory;
  readonly sourcePitchBytes: number;
  readonly widthBytes: number;
  readonly rows: number;
}

/** CU_STREAM_NON_BLOCKING: does not wait for the default stream, nor it for this one. */
const nonBlocking = 1;
/** CU_STREAM_CAPTURE_MODE_RELAXED: what other streams and threads do meanwhile is their affair. */
const relaxed = 2;

/**
 * A queue of device work: what is put in runs in order, after the call has returned.
 *
 * Copies from and to ordinary (pageable) arrays are staged through pinned memory by the driver: at
 * some 5 to 10 GB/s instead of the bus's 25 to 50, the call waits for the staging and often for the
 * queue, and they cannot be captured. Use `PinnedMemory`, or a `Uint8Array` over its bytes, for
 * what is copied often. **The caller keeps host memory unchanged until the queue has passed the
 * copy** (`synchronize`, or an event), and `PinnedMemory` alive; ordinary arrays the stream keeps.
 */
export class CudaStream implements Closeable {
  /** CUstream. */
  readonly handle: bigint;
  readonly #driver: CudaDriver;
  /** Arrays of copies that may still be going on: the garbage collector knows nothing of those. */
  #copied: ArrayBufferView[] = [];
  #open = true;

  private constructor(driver: CudaDriver, handle: bigint) {
    this.#driver = driver;
    this.handle = handle;
  }

  /** A new stream on the current device. */
  static create(driver: CudaDriver): CudaStream {
    return new CudaStream(driver, driver.create('cuStreamCreate', nonBlocking));
  }

  /** Copies host memory to a device address: all of it, or its first `sizeBytes`. */
  copyToDevice(target: bigint, source: HostMemory, sizeBytes = sizeOf(source)): void {
    assertFits(sizeBytes, source);
    if (sizeBytes === 0) return;
    this.#keep(source);
    this.#driver.call('cuMemcpyHtoDAsync_v2', target, pointer(source), sizeBytes, this.handle);
  }

  /** Fills host memory, or its first `sizeBytes`, from a device address. */
  copyToHost(target: HostMemory, source: bigint, sizeBytes = sizeOf(target)): void {
    assertFits(sizeBytes, target);
    if (sizeBytes === 0) return;
    this.#keep(target);
    this.#driver.call('cuMemcpyDtoHAsync_v2', pointer(target), source, sizeBytes, this.handle);
  }

  /** Copies from one device address to another; the two must not overlap. */
  copyOnDevice(copy: {
    readonly target: bigint;
    readonly source: bigint;
    readonly sizeBytes: number;
  }): void {
    const { target, source, sizeBytes } = copy;
    if (sizeBytes === 0) return;
    this.#driver.call('cuMemcpyDtoDAsync_v2', target, source, sizeBytes, this.handle);
  }

  /** Copies rows of host memory to the device. */
  copyRowsToDevice(copy: RowCopy): void {
    if (copy.rows === 0 || copy.widthBytes === 0) return;
    const past = (copy.rows - 1) * copy.sourcePitchBytes + copy.widthBytes;
    assertFits(past, copy.source);
    this.#keep(copy.source);
    this.#driver.call('cuMemcpy2DAsync_v2', packRowCopy(copy), this.handle);
  }

  /** Sets every byte to `value`, 0 to 255. */
  fill(target: bigint, fill: { readonly sizeBytes: number; readonly value: number }): void {
    if (fill.sizeBytes === 0) return;
    this.#driver.call('cuMemsetD8Async', target, fill.value & 0xff, fill.sizeBytes, this.handle);
  }

  /** Sets `count` words of 32 bits, from an address that is a multiple of 4 on, to `value`. */
  fill32(target: bigint, fill: { readonly count: number; readonly value: number }): void {
    if (fill.count === 0) return;
    this.#driver.call('cuMemsetD32Async', target, fill.value >>> 0, fill.count, this.handle);
  }

  /** Waits, with this thread, until all is done; errors of kernels are thrown here. */
  synchronize(): void {
    this.#driver.call('cuStreamSynchronize', this.handle);
    this.#copied = [];
  }

  /** An event that comes when all work that is in the queue now is done. */
  record(): CudaEvent {
    const handle = this.#driver.create('cuEventCreate', 0);
    this.#driver.call('cuEventRecord', handle, this.handle);
    return new CudaEvent(this.#driver, handle);
  }

  /** Lets later work of this stream wait for an event of another one, without this thread. */
  waitFor(event: CudaEvent): void {
    this.#driver.call('cuStreamWaitEvent', this.handle, event.handle, 0);
  }

  /**
   * Makes a graph of what `work` puts into this stream, which does not run now. Arguments and
   * addresses are part of the graph; contents are read when it runs. Run the work once before, so
   * that kernels are loaded and allowed their shared memory. If `work` throws, what was captured is
   * thrown away and the error goes on.
   */
  capture(work: () => void): CudaGraph {
    this.#driver.call('cuStreamBeginCapture_v2', this.handle, relaxed);
    try {
      work();
    } catch (error) {
      this.#abandonCapture();
      throw error;
    }
    const graph = this.#endCapture();
    try {
      const executable = this.#driver.create('cuGraphInstantiateWithFlags', graph, 0);
      return new CudaGraph(this.#driver, executable);
    } finally {
      this.#driver.call('cuGraphDestroy', graph);
    }
  }

  /** Ends the stream; work that is in it is still done. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#driver.call('cuStreamDestroy_v2', this.handle);
  }

  #keep(memory: HostMemory): void {
    if (!('address' in memory)) this.#copied.push(memory);
  }

  #endCapture(): bigint {
    const graph = new BigUint64Array(1);
    this.#driver.call('cuStreamEndCapture', this.handle, graph);
    return graph[0] ?? 0n;
  }

  #abandonCapture(): void {
    try {
      const graph = this.#endCapture();
      if (graph !== 0n) this.#driver.call('cuGraphDestroy', graph);
    } catch {
      // What failed first is what the caller should hear of; a broken capture has no graph.
    }
  }
}

/** A point in a stream's work. */
export class CudaEvent implements Closeable {
  /** CUevent. */
  readonly handle: bigint;
  readonly #driver: CudaDriver;
  #open = true;

  constructor(driver: CudaDriver, handle: bigint) {
    this.#driver = driver;
    this.handle = handle;
  }

  /** Waits, with this thread, until the event has come. */
  synchronize(): void {
    this.#driver.call('cuEventSynchronize', this.handle);
  }

  /** Milliseconds of device time from this event to a later one, which is waited for. */
  elapsedMs(later: CudaEvent): number {
    later.synchronize();
    const milliseconds = new Float32Array(1);
    this.#driver.call('cuEventElapsedTime', milliseconds, this.handle, later.handle);
    return milliseconds[0] ?? 0;
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#driver.call('cuEventDestroy_v2', this.handle);
  }
}

/** Captured work, started by one call. It is in no stream until it is launched. */
export class CudaGraph implements Closeable {
  readonly #driver: CudaDriver;
  readonly #executable: bigint;
  #open = true;

  constructor(driver: CudaDriver, executable: bigint) {
    this.#driver = driver;
    this.#executable = executable;
  }

  /** Puts the work into a stream. A graph never runs twice at the same time. */
  launch(stream: CudaStream): void {
    this.#driver.call('cuGraphLaunch', this.#executable, stream.handle);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#driver.call('cuGraphExecDestroy', this.#executable);
  }
}

/** CU_MEMORYTYPE_HOST and CU_MEMORYTYPE_DEVICE. */
const memoryTypes = { host: 1n, device: 2n } as const;

/**
 * CUDA_MEMCPY2D: for source, then target, x and y of the first byte, memory type, host and device
 * address, array and pitch; then width and height. Its enums are padded to 64 bits.
 */
export function packRowCopy(copy: RowCopy): BigUint64Array {
  const { source } = copy;
  const sourceAddress = 'address' in source ? source.address : addressOf(source);
  const from = [0n, 0n, memoryTypes.host, sourceAddress, 0n, 0n, BigInt(copy.sourcePitchBytes)];
  const to = [0n, 0n, memoryTypes.device, 0n, copy.target, 0n, BigInt(copy.targetPitchBytes)];
  return BigUint64Array.from([...from, ...to, BigInt(copy.widthBytes), BigInt(copy.rows)]);
}

function pointer(memory: HostMemory): ArrayBufferView | bigint {
  return 'address' in memory ? memory.address : memory;
}

function sizeOf(memory: HostMemory): number {
  return 'address' in memory ? memory.sizeBytes : memory.byteLength;
}

function assertFits(sizeBytes: number, memory: HostMemory): void {
  assert(sizeBytes <= sizeOf(memory), `a copy of ${sizeBytes} bytes fits ${sizeOf(memory)}`);
}
