import { ReadonceError } from '../core/errors.ts';
import type { GraphSource } from '../graph/decoder-blocks.ts';
import type { ChosenDevice } from './choose-device.ts';
import { loadCudaModule } from './cuda/cuda-module.ts';
import { createOrtCpuRuntime } from './ort/cpu-runtime.ts';
import type { Runtime } from './runtime.ts';

/** What a model runs on. */
export interface RuntimeOptions {
  /** As `chooseDevice` chose it. */
  readonly device: ChosenDevice;
  /** Threads of one operator on the CPU. */
  readonly threads: number;
}

/**
 * The runtime of a device.
 * @throws ReadonceError `engine_unavailable` if its library cannot be loaded, or this build has no
 * runtime for it
 */
export async function createRuntime(
  source: GraphSource,
  { device, threads }: RuntimeOptions,
): Promise<Runtime> {
  if (device.device === 'cpu') return createOrtCpuRuntime(source, { threads });
  if (loadCudaModule === undefined) {
    throw new ReadonceError(
      'engine_unavailable',
      'Expected a CUDA runtime but this build has no CUDA runtime: use --device cpu.',
    );
  }
  const cuda = await loadCudaModule();
  return cuda.createCudaRuntime(source, { deviceIndex: device.index, threads });
}
