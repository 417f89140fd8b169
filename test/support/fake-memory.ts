import type { KvLayout } from '../../src/core/kv-layout.ts';
import { BlockPool } from '../../src/runtime/cuda/block-pool.ts';
import type { CachesOptions } from '../../src/runtime/cuda/context-cache.ts';
import { CudaDevice } from '../../src/runtime/cuda/device.ts';
import {
  allocateStable,
  bytesAt,
  type DriverArgument,
  type DriverFunction,
  type StableMemory,
} from '../../src/runtime/cuda/driver-api.ts';
import type { KernelGpu } from '../../src/runtime/cuda/gpu.ts';
import type { HeadDim } from '../../src/runtime/cuda/kernel-shapes.ts';
import { createKernels } from '../../src/runtime/cuda/kernels.ts';
import { RowTransfer } from '../../src/runtime/cuda/row-transfer.ts';
import {
  fakeDriver,
  fakeGpu,
  fakeLauncher,
  type Behaviour,
  type DriverCall,
  type RecordedLaunch,
} from './fake-cuda.ts';

type Behaviours = Partial<Record<DriverFunction, Behaviour>>;

/** What a fake card's chunks are multiples of. */
export const fakeGranuleBytes = 2 * 1024 * 1024;

const outOfMemory = 2;
const invalid = 1;

function give(out: DriverArgument | undefined, value: bigint): number {
  if (out instanceof BigUint64Array) out[0] = value;
  return 0;
}

/**
 * Device and pinned memory that is this process's own: copies from the host, and back, are done at
 * once. Addresses that are reserved have no memory.
 */
function hostedMemory(memories: Map<bigint, StableMemory>): Behaviours {
  const allocate: Behaviour = (out, sizeBytes) => {
    const memory = allocateStable(Number(sizeBytes));
    memories.set(memory.address, memory);
    return give(out, memory.address);
  };
  const free: Behaviour = (address) => {
    const memory = memories.get(address as bigint);
    if (memory === undefined) return invalid;
    memories.delete(memory.address);
    memory.free();
    return 0;
  };
  return {
    cuMemAlloc_v2: allocate,
    cuMemHostAlloc: allocate,
    cuMemFree_v2: free,
    cuMemFreeHost: free,
    cuMemcpyHtoDAsync_v2: (target, source, sizeBytes) => {
      bytesAt(target as bigint, Number(sizeBytes)).set(hostBytes(source, Number(sizeBytes)));
      return 0;
    },
    cuMemcpy2DAsync_v2: (copy) => {
      if (!(copy instanceof BigUint64Array)) return invalid;
      const field = (index: number): number => Number(copy[index]);
      // See `packRowCopy`.
      const [sourcePitch, targetPitch, width, rows] = [field(6), field(13), field(14), field(15)];
      for (let row = 0; row < rows; row++) {
        const source = bytesAt((copy[3] ?? 0n) + BigInt(row * sourcePitch), width);
        bytesAt((copy[11] ?? 0n) + BigInt(row * targetPitch), width).set(source);
      }
      return 0;
    },
  };
}

function hostBytes(memory: DriverArgument | undefined, sizeBytes: number): Uint8Array {
  if (typeof memory === 'bigint') return bytesAt(memory, sizeBytes);
  if (!ArrayBuffer.isView(memory)) throw new Error('Expected host memory');
  return new Uint8Array(memory.buffer, memory.byteOffset, sizeBytes);
}

/** Reserved addresses and what lies behind them, as the driver would keep books of it. */
export interface VirtualMemory {
  readonly behaviours: Behaviours;
  /** Bytes of memory that is neither released nor given back. */
  createdBytes(): number;
  /** Bytes of addresses that are reserved. */
  reservedBytes(): number;
  /** Whether kernels may read and write there. */
  isBacked(address: bigint): boolean;
}

/**
 * @param roomBytes memory of the card, asked at each call: beyond it is `out_of_memory`
 */
export function virtualMemory(roomBytes: () => number = () => Infinity): VirtualMemory {
  const reserved = new Map<bigint, number>();
  const created = new Map<bigint, number>();
  const mapped = new Map<bigint, { readonly sizeBytes: number; isOpen: boolean }>();
  let next = 2n ** 40n;
  const total = (sizes: Iterable<number>): number =>
    [...sizes].reduce((sum, size) => sum + size, 0);
  const isReserved = (address: bigint, sizeBytes: number): boolean =>
    [...reserved].some(
      ([start, bytes]) => address >= start && address + BigInt(sizeBytes) <= start + BigInt(bytes),
    );
  const behaviours: Behaviours = {
    cuMemGetAllocationGranularity: (out) => give(out, BigInt(fakeGranuleBytes)),
    cuMemAddressReserve: (out, sizeBytes) => {
      next += 2n ** 40n;
      reserved.set(next, Number(sizeBytes));
      return give(out, next);
    },
    cuMemAddressFree: (address) => (reserved.delete(address as bigint) ? 0 : invalid),
    cuMemCreate: (out, sizeBytes) => {
      const bytes = Number(sizeBytes);
      if (bytes % fakeGranuleBytes !== 0) return invalid;
      if (total(created.values()) + bytes > roomBytes()) return outOfMemory;
      created.set(++next, bytes);
      return give(out, next);
    },
    cuMemRelease: (handle) => (created.delete(handle as bigint) ? 0 : invalid),
    cuMemMap: (address, sizeBytes, _offset, handle) => {
      const [at, bytes] = [address as bigint, Number(sizeBytes)];
      if (mapped.has(at) || !isReserved(at, bytes)) return invalid;
      if (created.get(handle as bigint) !== bytes) return invalid;
      mapped.set(at, { sizeBytes: bytes, isOpen: false });
      return 0;
    },
    cuMemUnmap: (address) => (mapped.delete(address as bigint) ? 0 : invalid),
    cuMemSetAccess: (address) => {
      const found = mapped.get(address as bigint);
      if (found === undefined) return invalid;
      found.isOpen = true;
      return 0;
    },
  };
  return {
    behaviours,
    createdBytes: () => total(created.values()),
    reservedBytes: () => total(reserved.values()),
    isBacked: (address) =>
      [...mapped].some(
        ([start, { sizeBytes, isOpen }]) =>
          isOpen && address >= start && address < start + BigInt(sizeBytes),
      ),
  };
}

/** A GPU without a card, for what runs on our own kernels. */
export interface FakeKernelGpu {
  readonly gpu: KernelGpu;
  readonly memory: VirtualMemory;
  readonly calls: DriverCall[];
  readonly launches: RecordedLaunch[];
  /** Runs of device and pinned memory that are not freed. */
  readonly allocations: () => number;
  /** Functions that answer that there is no memory, from when they are put in. */
  readonly shortOf: Set<DriverFunction>;
}

/** A GPU whose memory can be looked at, and whose kernels are only recorded. */
export function fakeKernelGpu(
  options: {
    readonly roomBytes?: () => number;
    readonly behaviours?: Behaviours;
    readonly onLaunch?: (launch: RecordedLaunch) => void;
  } = {},
): FakeKernelGpu {
  const memory = virtualMemory(options.roomBytes);
  const memories = new Map<bigint, StableMemory>();
  const behaviours = {
    ...fakeGpu(),
    ...hostedMemory(memories),
    ...memory.behaviours,
    ...options.behaviours,
  };
  const shortOf = new Set<DriverFunction>();
  const { driver, calls } = fakeDriver(behaviours, shortOf);
  const device = CudaDevice.open(0, driver);
  const launcher = fakeLauncher(options.onLaunch);
  const gpu = { device, stream: device.createStream(), kernels: createKernels(launcher) };
  const allocations = (): number => memories.size;
  return { gpu, memory, calls, launches: launcher.launches, allocations, shortOf };
}

/** What contexts and tails are made from, over a fake GPU. */
export function fakeCaches(
  layout: KvLayout,
  { poolBytes = 2 ** 30, ...options }: Parameters<typeof fakeKernelGpu>[0] & PoolSize = {},
): FakeKernelGpu & { readonly caches: CachesOptions } {
  const fake = fakeKernelGpu(options);
  const headDim = layout.headDim as HeadDim;
  const caches = {
    gpu: fake.gpu,
    layout,
    blocks: new BlockPool(fake.gpu, { format: 'f16', headDim, poolBytes }),
    transfer: new RowTransfer(fake.gpu, { headDim, type: 'f16' }),
  };
  return { ...fake, caches };
}

interface PoolSize {
  readonly poolBytes?: number;
}
