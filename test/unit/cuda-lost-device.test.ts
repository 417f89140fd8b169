import { describe, expect, it } from 'vitest';
import { ReadonceError } from '../../src/core/errors.ts';
import { isDeviceLost } from '../../src/runtime/cuda/lost-device.ts';
import { fakeKernelGpu } from '../support/fake-memory.ts';

/** A stream that waits in vain from the kernel on that failed with this status. */
function streamAfter(status: number) {
  return fakeKernelGpu({ behaviours: { cuStreamSynchronize: () => status } }).gpu.stream;
}

function errorOf(status: number): unknown {
  try {
    streamAfter(status).synchronize();
  } catch (error) {
    return error;
  }
  return undefined;
}

describe('a GPU', () => {
  it.each([214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911])(
    'is lost after error %i of the driver, whoever reports it',
    (status) => {
      expect(isDeviceLost(errorOf(status), streamAfter(0))).toBe(true);
      const reported = new ReadonceError('internal', `CUDA failure ${status} in a node`);
      expect(isDeviceLost(reported, streamAfter(status))).toBe(true);
    },
  );

  it('is lost when nothing more is done on it, whatever its error was', () => {
    expect(isDeviceLost(errorOf(999), streamAfter(999))).toBe(true);
    expect(isDeviceLost(new TypeError('not ours'), streamAfter(100))).toBe(true);
  });

  it.each([1, 2, 701])('is not lost after error %i', (status) => {
    expect(isDeviceLost(errorOf(status), streamAfter(0))).toBe(false);
  });

  it('is not asked about what was refused', () => {
    const stream = streamAfter(700);
    const refused = new ReadonceError('overloaded', 'later');
    expect(isDeviceLost(refused, stream)).toBe(false);
  });
});
