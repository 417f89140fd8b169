import { ReadonceError } from '../../core/errors.ts';
import type { CudaStream } from './stream.ts';

/**
 * CUresults after which a process can do nothing more on its GPU. Of most of them `cuda.h` says
 * that the process must be terminated and relaunched; an assertion in a kernel (710) and a context
 * that is gone (709) end the context that all is in; after uncorrectable errors of memory (214) and
 * NVLink (220) nothing that was there can be relied on.
 */
const lasting: ReadonlySet<unknown> = new Set([
  214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911,
]);

/**
 * Whether an error tells of a GPU that this process can no longer use. Errors of the driver say so
 * by their status; those of ONNX Runtime are text, so the stream is asked, which fails from then
 * on.
 */
export function isDeviceLost(error: unknown, stream: Pick<CudaStream, 'synchronize'>): boolean {
  if (error instanceof ReadonceError) {
    if (lasting.has(error.details['status'])) return true;
    // The others were not the device's, or have nothing broken.
    if (error.code !== 'internal') return false;
  }
  try {
    stream.synchronize();
    return false;
  } catch {
    return true;
  }
}
