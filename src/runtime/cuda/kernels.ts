import { attentionKernels, type AttentionKernels } from './attention-kernels.ts';
import { headKernels, type HeadKernels } from './head-kernels.ts';
import type { KernelLauncher } from './kernel-module.ts';
import { rowKernels, type RowKernels } from './row-kernels.ts';
import { scoreKernels, type ScoreKernels } from './score-kernels.ts';

/**
 * All kernels of `native/README.md`, one method each. Entry points are chosen by formats, head dim
 * and rows; grids, threads and shared memory follow from the sizes. Addresses are the device's and
 * are not checked, nor is what lies there. Launches that have nothing to do are left out.
 */
export type Kernels = AttentionKernels & ScoreKernels & RowKernels & HeadKernels;

/** The kernels of a loaded module. */
export function createKernels(launcher: KernelLauncher): Kernels {
  return {
    ...attentionKernels(launcher),
    ...scoreKernels(launcher),
    ...rowKernels(launcher),
    ...headKernels(launcher),
  };
}
