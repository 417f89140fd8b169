import type { GraphSource } from '../../graph/decoder-blocks.ts';
import type { Runtime } from '../runtime.ts';

/** What a runtime on a CUDA device is made with. */
export interface CudaRuntimeOptions {
  /** As the driver numbers its devices. */
  readonly deviceIndex: number;
  /** Threads of what runs on the host. */
  readonly threads: number;
}

/** What the module of the CUDA runtime exports. */
export interface CudaModule {
  /** @throws ReadonceError `engine_unavailable`, `out_of_memory` */
  createCudaRuntime(source: GraphSource, options: CudaRuntimeOptions): Runtime;
}

/**
 * Loads the CUDA runtime; undefined where a build has none, and then no device but the CPU is
 * chosen. It is loaded late, so that machines without CUDA never touch it.
 */
export const loadCudaModule: (() => Promise<CudaModule>) | undefined = undefined;
