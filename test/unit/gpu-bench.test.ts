import { describe, expect, it } from 'vitest';
import type { ModelConfig } from '../../src/model/config.ts';
import { raggedLengths, totalRows } from '../gpu/bench/documents.ts';
import { parseGpuBenchOptions } from '../gpu/bench/options.ts';
import { benchModels, denseFlops, stepWeightBytes } from '../gpu/bench/shapes.ts';

const config: ModelConfig = {
  family: 'llama',
  vocabSize: 11,
  hiddenSize: 6,
  layers: 2,
  queryHeads: 4,
  kvHeads: 2,
  headDim: 2,
  feedForwardSize: 5,
  rmsEpsilon: 1e-6,
  contextLength: 64,
  ropeTheta: 10_000,
  ropeScaling: null,
  tiedHead: false,
  attentionBias: false,
  feedForwardBias: false,
  endTokenIds: [0],
};

describe('work of the GPU benchmark', () => {
  it('counts the products of all layers, of the last one up to its attention', () => {
    // Queries 6×8, keys and values 6×4 each; then 8×6 and three of 6×5. Rows seen: 4 + 5 + 6.
    const products = 2 * (48 + 24 + 24) + 1 * (48 + 90);
    const attention = 2 * (2 * 15 * 8);
    expect(denseFlops(config, { past: 3, tokens: 3 })).toBe(2 * (3 * products + attention));
  });

  it('counts as much for a document in slices as at once', () => {
    const whole = denseFlops(config, { past: 0, tokens: 10 });
    const halves = [0, 5].map((past) => denseFlops(config, { past, tokens: 5 }));
    expect(halves.reduce((sum, each) => sum + each)).toBe(whole);
  });

  it('counts the bytes of all weights but the embeddings', () => {
    const layer = 48 + 24 + 24 + 48 + 90 + 2 * 6;
    expect(stepWeightBytes(config)).toBe(2 * (2 * layer + 6 + 66));
  });

  it('takes the real shapes of both models', () => {
    const bytes = Object.values(benchModels).map((model) => stepWeightBytes(model.config));
    expect(bytes.map((each) => Math.round(each / 1e8))).toEqual([141, 150]);
  });
});

describe('contexts of the GPU benchmark', () => {
  const layout = { layers: 28, kvHeads: 4, group: 7, headDim: 128 };

  it('are ragged below 1, with the mean that was asked for', () => {
    const lengths = raggedLengths(layout, { tokens: 32_768, keepRatio: 0.3, seed: 1 });
    expect(totalRows(lengths) / (112 * 32_768)).toBeCloseTo(0.3, 4);
    expect(Math.max(...lengths)).toBeGreaterThan(2 * Math.min(...lengths));
  });

  it('are whole at 1', () => {
    const lengths = raggedLengths(layout, { tokens: 100, keepRatio: 1, seed: 1 });
    expect(new Set(lengths)).toEqual(new Set([100]));
  });
});

describe('options of the GPU benchmark', () => {
  it('choose models and parts', () => {
    const options = parseGpuBenchOptions(['--model', 'llama,qwen', '--only', 'ttft,decode']);
    expect(options.models.map(({ name }) => name)).toEqual(['Llama-3.1-8B', 'Qwen2.5-7B']);
    expect(options.parts).toEqual(['decode', 'ttft']);
    expect(options.tokens).toBe(32_768);
  });

  it('name a model that was cut', () => {
    const [model] = parseGpuBenchOptions(['--layers', '8']).models;
    expect(model?.name).toBe('Qwen2.5-7B, 8 layers');
    expect(model?.config.layers).toBe(8);
  });

  it.each([
    ['--only', 'speed'],
    ['--model', 'gpt'],
  ])('refuse %s %s and say what there is', (flag, value) => {
    expect(() => parseGpuBenchOptions([flag, value])).toThrow(/--only decode,dense/);
  });
});
