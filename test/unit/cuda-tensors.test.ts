import { rmSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { OrtBinding, OrtSession } from '../../src/runtime/ort/session.ts';
import type { OrtTensor } from '../../src/runtime/ort/tensor.ts';
import { LayerRunner } from '../../src/runtime/cuda/layer-runner.ts';
import { DeviceWeights } from '../../src/runtime/cuda/weights.ts';
import { fakeKernelGpu } from '../support/fake-memory.ts';
import { temporaryFolder } from '../support/tiny-checkpoint.ts';
import { randomModel, type TinyModel } from '../support/tiny-model.ts';

let folder: string;
let model: TinyModel;

beforeAll(() => {
  folder = temporaryFolder();
  model = randomModel(folder, {
    layers: 2,
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

/** A GPU and sessions over which nothing is computed, and what of theirs is open. */
function open(options: Parameters<typeof fakeKernelGpu>[0] = {}) {
  const { gpu, allocations } = fakeKernelGpu(options);
  const live = new Set<object>();
  const held = (part: object): object => {
    const closing = Object.assign(part, { close: () => void live.delete(closing) });
    live.add(closing);
    return closing;
  };
  const ort = {
    tensor: (_type: string, address: bigint, shape: readonly number[]) =>
      held({ address, shape }) as OrtTensor,
  };
  const done = (): void => undefined;
  const bind = (): OrtBinding => held({ input: done, output: done, run: done }) as OrtBinding;
  const sessions = { get: () => ({ bind }) as Partial<OrtSession> as OrtSession };
  return { gpu: { ...gpu, ort }, sessions, live, allocations };
}

describe('a runner of layer graphs', () => {
  function run(runner: LayerRunner, tokens: number): void {
    runner.begin(tokens);
    runner.between(tokens, 0);
    runner.end(tokens, 1);
  }

  it('keeps what it binds for few numbers of tokens, however many it sees', () => {
    const { gpu, sessions, live, allocations } = open();
    const { config } = model;
    const weights = { inputs: () => ({}) };
    const before = allocations();
    const runner = new LayerRunner({ gpu, config, sessions, weights, mostTokens: 64 });
    for (let tokens = 1; tokens <= 16; tokens++) run(runner, tokens);
    const kept = live.size;
    for (let tokens = 17; tokens <= 64; tokens++) run(runner, tokens);
    expect(live.size).toBe(kept);
    run(runner, 64);
    expect(live.size).toBe(kept);
    runner.close();
    expect([live.size, allocations()]).toEqual([0, before]);
  });
});

describe('weights', () => {
  it('that could not all be put on the card leave nothing there', () => {
    let launches = 0;
    const { gpu, allocations } = open({
      onLaunch: () => {
        if (++launches === 3) throw new Error('no more');
      },
    });
    expect(() => new DeviceWeights(gpu, model)).toThrow('no more');
    expect(allocations()).toBe(0);
    const weights = new DeviceWeights(gpu, model);
    expect(allocations()).toBe(1);
    weights.close();
    expect(allocations()).toBe(0);
  });
});
