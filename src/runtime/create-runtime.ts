import type { GraphSource } from '../graph/decoder-blocks.ts';
import type { ChosenDevice } from './choose-device.ts';
import type { DevicePrecision } from './cuda/cuda-runtime.ts';
import { createOrtCpuRuntime } from './ort/cpu-runtime.ts';
import type { Runtime } from './runtime.ts';

/** What a model runs on. */
export interface RuntimeOptions {
  /** As `chooseDevice` chose it. */
  readonly device: ChosenDevice;
  /** Threads of one operator on the CPU. */
  readonly threads: number;
  /** Most bytes of loaded contexts and tails on a GPU; 0: as many as there is room for. */
  readonly poolBytes: number;
  /** Queries that may compute at once: a GPU has places for them. Default 32. */
  readonly maxRunning?: number | undefined;
  /** What they are held in there; default `f16`. */
  readonly devicePrecision?: DevicePrecision | undefined;
}

/**
 * The runtime of a device.
 * @throws ReadonceError `engine_unavailable` if its library cannot be loaded, `out_of_memory` if
 * the model does not fit
 */
export async function createRuntime(
  source: GraphSource,
  { device, threads, poolBytes, maxRunning, devicePrecision = 'f16' }: RuntimeOptions,
): Promise<Runtime> {
  if (device.device === 'cpu') return createOrtCpuRuntime(source, { threads });
  // Loaded late: machines without CUDA never touch it.
  const { createCudaRuntime } = await import('./cuda/cuda-runtime.ts');
  return createCudaRuntime(source, {
    deviceIndex: device.index,
    poolBytes,
    precision: devicePrecision,
    maxRunning,
  });
}
