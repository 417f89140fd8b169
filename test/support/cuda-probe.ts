import type { CudaDevice, ProbeAnswer } from '../../src/runtime/cuda/probe-native.ts';
import { probeCuda, type CudaProbe, type CudaProbeSources } from '../../src/runtime/cuda/probe.ts';

/** A machine with one card. */
export const h100: CudaDevice = {
  index: 0,
  name: 'NVIDIA H100 80GB HBM3',
  computeCapability: '9.0',
  memoryBytes: 85_017_624_576,
};

/** A driver and libraries with which nothing is wrong. */
export const soundAnswer: ProbeAnswer = {
  driver: { version: 13_000, devices: [h100] },
  failures: {},
};

/** A machine that can run CUDA, but for what is given. */
export function sources(different: Partial<CudaProbeSources> = {}): CudaProbeSources {
  return {
    platform: 'linux',
    arch: 'x64',
    findProvider: () => ({ folder: '/ort', missing: [], matches: true }),
    findKernels: () => '/dist/kernels.fatbin',
    kernelsAreOld: () => false,
    askNative: () => soundAnswer,
    ...different,
  };
}

/** What a probe of that machine finds. */
export function probeOf(different: Partial<CudaProbeSources> = {}): CudaProbe {
  return probeCuda({ sources: sources(different) });
}
