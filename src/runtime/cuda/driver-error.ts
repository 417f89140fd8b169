import { ReadonceError } from '../../core/errors.ts';

/** The driver that the kernels are built for (CUDA 13.0), as installation guides name it. */
export const driverUpdate = '580 or later';

const outOfMemory = 2;

const noKernels =
  'build the kernels again with "npm run build:native" on a toolkit that this driver knows, or ' +
  `update the driver to ${driverUpdate}`;
const startGpus =
  'check that nvidia-smi lists a GPU, that CUDA_VISIBLE_DEVICES does not hide it and, in a ' +
  'container, that it was started with GPU access; or use the CPU';
const restart = 'restart the machine, so that the kernel module and the library are of one version';

/** Statuses that say that this machine's GPU cannot be used as it is, and what to do about it. */
const fixes: Readonly<Record<number, string>> = {
  34: 'the library found first is the stub of the CUDA toolkit: put that of the driver before it',
  36: `update the NVIDIA driver to ${driverUpdate}`,
  46: 'another process has the GPU for itself: end it, or set the compute mode to default',
  100: startGpus,
  101: 'use the index of a GPU that is there',
  102: startGpus,
  200: noKernels,
  209: noKernels,
  218: noKernels,
  221: noKernels,
  222: noKernels,
  223: noKernels,
  802: 'wait for the GPUs to be ready, or start nvidia-fabricmanager',
  803: restart,
  804: restart,
  805: 'check the MPS server of this machine',
};

/** A call of the driver that failed, with what the driver says about it. */
export interface DriverFailure {
  readonly call: string;
  /** CUresult. */
  readonly status: number;
  /** As `CUDA_ERROR_NO_DEVICE`. */
  readonly name: string;
  readonly text: string;
}

/**
 * The error for a bad status: `out_of_memory` for CUDA_ERROR_OUT_OF_MEMORY, `engine_unavailable`
 * with the fix where GPU, driver or kernels do not go together, else `internal`. A kernel's failure
 * (an illegal address, say) is reported by any later call, and the process must then be restarted
 * (`isDeviceLost`).
 */
export function driverError(failure: DriverFailure): ReadonceError {
  const { call, status, name, text } = failure;
  const fix = fixes[status];
  const happened = `Expected ${call} to succeed but got ${name} (${text})`;
  const details = { call, status, name };
  if (status === outOfMemory) {
    return new ReadonceError(
      'out_of_memory',
      `${happened}: use a smaller model, shorter documents or fewer contexts at once`,
      { details },
    );
  }
  if (fix === undefined) return new ReadonceError('internal', happened, { details });
  return new ReadonceError('engine_unavailable', `${happened}: ${fix}`, { details });
}
