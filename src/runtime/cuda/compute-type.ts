import type { ComputeType } from '../../graph/layer-graphs.ts';
import type { ModelType } from './kernel-shapes.ts';

/** What kernels call the types that graphs compute in. */
export const kernelType: Readonly<Record<ComputeType, ModelType>> = {
  float16: 'f16',
  bfloat16: 'bf16',
};
