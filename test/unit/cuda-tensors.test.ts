import { rmSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { kvLayout } from '../../src/model/config.ts';
import { CudaDenseCache } from '../../src/runtime/cuda/dense-cache.ts';
import { DenseCalls } from '../../src/runtime/cuda/dense-calls.ts';
import { LayerRunner } from '../../src/runtime/cuda/layer-runner.ts';
import { RowTransfer } from '../../src/runtime/cuda/row-transfer.ts';
import { DeviceWeights } from '../../src/runtime/cuda/weights.ts';
import { runPieces } from '../../src/runtime/run-pieces.ts';
import { fakeTensorGpu } from '../support/fake-ort.ts';
import { temporaryFolder } from '../support/tiny-checkpoint.ts';
import { randomModel, type TinyModel } from '../support/tiny-model.ts';

const noMemory = expect.objectContaining({ code: 'out_of_memory' }) as unknown;

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

describe('a runner of layer graphs', () => {
  function run(runner: LayerRunner, tokens: number): void {
    runner.begin(tokens);
    runner.between(tokens, 0);
    runner.end(tokens, 1);
  }

  it('keeps what it binds for few numbers of tokens, however many it sees', () => {
    const { gpu, sessions, live, allocations } = fakeTensorGpu();
    const { config } = model;
    const weights = { inputs: () => ({}) };
    const before = allocations();
    const type = 'float16';
    const runner = new LayerRunner({ gpu, config, type, sessions, weights, mostTokens: 64 });
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
    const { gpu, allocations } = fakeTensorGpu({
      onLaunch: () => {
        if (++launches === 3) throw new Error('no more');
      },
    });
    expect(() => new DeviceWeights(gpu, model, 'float16')).toThrow('no more');
    expect(allocations()).toBe(0);
    const weights = new DeviceWeights(gpu, model, 'float16');
    expect(allocations()).toBe(1);
    weights.close();
    expect(allocations()).toBe(0);
  });
});

describe('what documents are computed in', () => {
  const ids = Int32Array.of(1, 2, 3);

  function open() {
    const fake = fakeTensorGpu();
    const { gpu, sessions } = fake;
    const config = { ...model.config, headDim: 64 };
    const layout = kvLayout(config);
    const transfer = new RowTransfer(gpu, { headDim: 64, type: 'f16' });
    const weights = { inputs: () => ({}), head: 0n };
    const calls = new DenseCalls({ gpu, config, layout, type: 'float16', sessions, weights });
    const cache = new CudaDenseCache({ gpu, layout, type: 'float16', transfer }, 8);
    const scores = new Float32Array(layout.layers * layout.kvHeads * 2);
    const slice = { ids, sinkEnd: 0, chunkStart: 0, chunkEnd: 2, passStart: 3, scores };
    return { ...fake, calls, cache, slice };
  }

  it('is taken when they are asked for, and may be asked for again', () => {
    const { calls, cache, slice, shortOf, runs, allocations, live } = open();
    const before = allocations();
    shortOf.add('cuMemAlloc_v2');
    expect(() => calls.pieces(cache, ids, undefined)).toThrow(noMemory);
    expect(allocations()).toBe(before);
    shortOf.clear();
    runPieces(calls.pieces(cache, ids, undefined));
    expect(cache.length).toBe(3);
    expect(runs).toEqual(['begin', 'attend', 'between', 'attend']);
    const kept = allocations();
    shortOf.add('cuMemAlloc_v2');
    for (let i = 0; i < 3; i++) expect(() => calls.pieces(cache, ids, slice)).toThrow(noMemory);
    expect([allocations(), cache.length]).toEqual([kept, 3]);
    // Without scores there is nothing to take.
    runPieces(calls.pieces(cache, ids, undefined));
    calls.close();
    cache.close();
    expect([allocations(), live.size]).toEqual([0, 0]);
  });
});
