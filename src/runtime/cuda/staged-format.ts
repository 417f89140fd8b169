import { defined } from '../../core/assert.ts';
import type { Precision } from '../../core/precision.ts';
import type { StagedFormat } from './kernel-shapes.ts';

/** What kernels call a stored form. */
export function stagedFormat({ name }: Precision): StagedFormat {
  const formats: Readonly<Record<string, StagedFormat>> = { f16: 'f16', f32: 'f32', int8: 'i8' };
  return defined(formats[name], `a kernel for the precision ${name}`);
}
