import { rmSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ModelConfig } from '../../src/model/config.ts';
import {
  checksOf,
  chooseDevice,
  deviceForModel,
  deviceLabel,
  type ChosenDevice,
} from '../../src/runtime/choose-device.ts';
import { createRuntime } from '../../src/runtime/create-runtime.ts';
import { h100, probeOf, soundAnswer } from '../support/cuda-probe.ts';
import { temporaryFolder } from '../support/tiny-checkpoint.ts';
import { randomModel, type TinyModel } from '../support/tiny-model.ts';

const second = { ...h100, index: 1, name: 'NVIDIA L4', computeCapability: '8.9' };
const two = {
  askNative: () => ({ ...soundAnswer, driver: { version: 13_000, devices: [h100, second] } }),
};

describe('cpu', () => {
  it('is taken without a look at CUDA', () => {
    const chosen = chooseDevice({ device: 'cpu', deviceIndex: 0 }, () => {
      throw new Error('probed');
    });
    expect(chosen).toEqual({ device: 'cpu' });
    expect(deviceLabel(chosen)).toBe('cpu');
  });
});

describe('auto', () => {
  it('takes CUDA if every check passes', () => {
    const chosen = chooseDevice({ device: 'auto', deviceIndex: 0 }, probeOf);
    expect(chosen).toEqual({ device: 'cuda', index: 0, name: h100.name });
    expect(deviceLabel(chosen)).toBe('cuda:0 NVIDIA H100 80GB HBM3');
  });

  it('takes the CPU if one fails, and says why', () => {
    const probe = () => probeOf({ findKernels: () => undefined });
    expect(chooseDevice({ device: 'auto', deviceIndex: 0 }, probe)).toEqual({
      device: 'cpu',
      reason: expect.stringMatching(/^kernels: /) as string,
    });
  });

  it('takes the CPU if the device of the index is not there', () => {
    const chosen = chooseDevice({ device: 'auto', deviceIndex: 3 }, probeOf);
    expect(chosen).toEqual({ device: 'cpu', reason: 'device: no device 3; there are 1' });
  });
});

describe('cuda', () => {
  it('takes the device of the index', () => {
    const chosen = chooseDevice({ device: 'cuda', deviceIndex: 1 }, () => probeOf(two));
    expect(chosen).toEqual({ device: 'cuda', index: 1, name: 'NVIDIA L4' });
  });

  it('never falls back, and names the first checks that fail and the doctor', () => {
    const lacking = () =>
      probeOf({
        findProvider: () => ({ folder: '/ort', missing: ['libx.so'], matches: false }),
        findKernels: () => undefined,
        askNative: () => ({ driver: { error: 'none', devices: [] }, failures: {} }),
      });
    const choose = () => chooseDevice({ device: 'cuda', deviceIndex: 0 }, lacking);
    expect(choose).toThrow(/no libx\.so in \/ort.*kernels.*"readonce doctor"/);
    expect(choose).not.toThrow(/device: no device/);
    expect(choose).toThrow(expect.objectContaining({ code: 'engine_unavailable' }));
  });

  it('is refused where CUDA cannot be, without a word on devices', () => {
    const probe = probeOf({ platform: 'win32' });
    expect(checksOf(probe, 0).map(({ name }) => name)).toEqual(['platform']);
    expect(() => chooseDevice({ device: 'cuda', deviceIndex: 0 }, () => probe)).toThrow(/win32/);
  });
});

describe('a runtime', () => {
  let folder: string;
  let model: TinyModel;
  beforeAll(() => {
    folder = temporaryFolder();
    model = randomModel(folder, {
      layers: 1,
      queryHeads: 2,
      kvHeads: 1,
      headDim: 8,
      hiddenSize: 16,
      feedForwardSize: 16,
      vocabSize: 16,
      attentionBias: false,
      feedForwardBias: false,
      tiedHead: true,
      ropeScaling: null,
      seed: 1,
    });
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  it('runs models on a GPU that there are kernels for, by auto others on the CPU', () => {
    const cuda: ChosenDevice = { device: 'cuda', index: 0, name: h100.name };
    const fits = { ...model.config, headDim: 128, hiddenSize: 4096, queryHeads: 32, kvHeads: 8 };
    const unfit: readonly (readonly [Partial<ModelConfig>, RegExp])[] = [
      [{ headDim: 96 }, /heads of 96 elements, not 64 or 128/],
      [{ hiddenSize: 4100 }, /hidden size of 4100, no multiple of 32/],
      [{ queryHeads: 129, kvHeads: 1 }, /129 query heads for a KV head, more than 128/],
    ];
    for (const wanted of ['auto', 'cuda'] as const) {
      expect(deviceForModel(cuda, wanted, fits)).toBe(cuda);
      const known = chooseDevice({ device: wanted, deviceIndex: 0 }, probeOf, fits);
      expect(known).toEqual(cuda);
    }
    for (const [different, reason] of unfit) {
      const config = { ...fits, ...different };
      const onCpu = { device: 'cpu', reason: expect.stringMatching(reason) as string };
      expect(deviceForModel(cuda, 'auto', config)).toEqual(onCpu);
      expect(chooseDevice({ device: 'auto', deviceIndex: 0 }, probeOf, config)).toEqual(onCpu);
      const explicit = () => deviceForModel(cuda, 'cuda', config);
      expect(explicit).toThrow(reason);
      expect(explicit).toThrow(expect.objectContaining({ code: 'unsupported' }));
      expect(deviceForModel({ device: 'cpu' }, 'auto', config)).toEqual({ device: 'cpu' });
    }
  });

  it('is that of the chosen device', async () => {
    const runtime = await createRuntime(model, {
      device: { device: 'cpu' },
      threads: 1,
      poolBytes: 0,
    });
    expect(runtime.name).toBe('ort-cpu');
    runtime.close();
  });
});
