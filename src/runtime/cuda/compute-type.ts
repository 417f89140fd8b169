import type { ComputeType } from '../../graph/layer-graphs.ts';
import type { ModelType } from './kernel-shapes.ts';

/** What kernels call the types that graphs compute in. */
export const kernelType: Readonly<Record<ComputeType, ModelType>> = {
  float16: 'f16',
  bfloat16: 'bf16',
};

/** What helps where a model's numbers are not finite in a type. */
export function insteadOf(type: ComputeType): string {
  return type === 'float16'
    ? 'where they exceed float16, use --device-precision bf16 or the CPU'
    : 'use the CPU';
}
