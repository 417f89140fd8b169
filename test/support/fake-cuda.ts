import {
  createDriver,
  type CudaDriver,
  type DriverArgument,
  type DriverFunction,
  type DriverLibrary,
} from '../../src/runtime/cuda/driver-api.ts';
import type { Launch } from '../../src/runtime/cuda/kernel-module.ts';
import type { KernelArgument } from '../../src/runtime/cuda/launch-buffer.ts';

/** What was asked of a fake driver. */
export interface DriverCall {
  readonly name: DriverFunction;
  readonly args: readonly DriverArgument[];
}

const outOfMemory = 2;

/** What a fake function does: writes its results, and returns a status (0 if nothing). */
export type Behaviour = (...args: readonly DriverArgument[]) => number | undefined;

/**
 * A driver without a GPU: records calls, hands out handles of its own, and does what `behaviours`
 * say. Errors are named as `error 2`, and described as `text of 2`.
 * @param shortOf functions that do nothing but say that there is no memory
 */
export function fakeDriver(
  behaviours: Partial<Record<DriverFunction, Behaviour>> = {},
  shortOf: ReadonlySet<DriverFunction> = new Set(),
): {
  readonly driver: CudaDriver;
  readonly calls: DriverCall[];
  /** The calls' names. */
  readonly names: () => readonly DriverFunction[];
} {
  const calls: DriverCall[] = [];
  let handles = 0x1000n;
  const library: DriverLibrary = {
    invoke: (name, args) => {
      if (name === 'cuGetErrorName' || name === 'cuGetErrorString') {
        const [status, address] = args;
        const offset = name === 'cuGetErrorName' ? 10_000n : 20_000n;
        if (address instanceof BigUint64Array) address[0] = BigInt(status as number) + offset;
        return 0;
      }
      calls.push({ name, args });
      if (shortOf.has(name)) return outOfMemory;
      const [first] = args;
      if (first instanceof BigUint64Array) first[0] = handles++;
      return behaviours[name]?.(...args) ?? 0;
    },
    text: (address) =>
      address < 20_000n ? `error ${address - 10_000n}` : `text of ${address - 20_000n}`,
  };
  return { driver: createDriver(library), calls, names: () => calls.map(({ name }) => name) };
}

/** Behaviours of one GPU. */
export function fakeGpu(
  gpu: { readonly name?: string; readonly major?: number; readonly multiprocessors?: number } = {},
): Partial<Record<DriverFunction, Behaviour>> {
  const { name = 'Fake GPU', major = 9, multiprocessors = 132 } = gpu;
  const attributes = new Map<unknown, number>([
    [16, multiprocessors],
    [75, major],
    [76, 0],
  ]);
  const integer =
    (value: number): Behaviour =>
    (out) =>
      write(out, value);
  return {
    cuDeviceGetCount: integer(1),
    cuDeviceGet: (out, index) => (index === 0 ? write(out, 0) : 101),
    cuDeviceGetAttribute: (out, which) => write(out, attributes.get(which) ?? 0),
    cuDriverGetVersion: integer(13000),
    cuDeviceGetName: (out) => {
      if (out instanceof Uint8Array) out.set(Buffer.from(name));
      return 0;
    },
    cuDeviceTotalMem_v2: (out) => write(out, 80e9),
    cuMemGetInfo_v2: (free, total) => write(free, 5e9) + write(total, 80e9),
    cuOccupancyMaxActiveBlocksPerMultiprocessor: integer(2),
  };
}

function write(out: DriverArgument | undefined, value: number): number {
  if (out instanceof Int32Array) out[0] = value;
  if (out instanceof BigUint64Array) out[0] = BigInt(value);
  return 0;
}

/** A launch that a fake launcher was asked for. */
export interface RecordedLaunch extends Launch {
  readonly name: string;
  readonly args: readonly KernelArgument[];
}

/**
 * Records launches; 264 blocks of anything are resident.
 * @param onLaunch does what a test wants of kernels
 */
export function fakeLauncher(onLaunch?: (launch: RecordedLaunch) => void): {
  readonly launches: RecordedLaunch[];
  launch(name: string, launch: Launch, args: readonly KernelArgument[]): void;
  residentBlocks(
    name: string,
    shape: { readonly threads: number; readonly sharedBytes: number },
  ): number;
  readonly asked: {
    readonly name: string;
    readonly threads: number;
    readonly sharedBytes: number;
  }[];
} {
  const launches: RecordedLaunch[] = [];
  const asked: { name: string; threads: number; sharedBytes: number }[] = [];
  return {
    launches,
    asked,
    launch: (name, launch, args) => {
      const recorded = { name, ...launch, args };
      launches.push(recorded);
      onLaunch?.(recorded);
    },
    residentBlocks: (name, shape) => {
      asked.push({ name, ...shape });
      return 264;
    },
  };
}
