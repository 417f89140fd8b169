import { llama } from '../../../src/model/families/llama.ts';
import type { ModelConfig } from '../../../src/model/config.ts';

/** A model of a real shape. Its weights are random: how fast it is does not depend on them. */
export interface BenchModel {
  readonly name: string;
  readonly config: ModelConfig;
}

/** A document of 32,768 tokens, and room for the reconstruction pass behind it. */
const contextLength = 35_840;

const shared = {
  family: 'llama',
  headDim: 128,
  rmsEpsilon: 1e-6,
  contextLength,
  ropeScaling: null,
  tiedHead: false,
  attentionBias: false,
  feedForwardBias: false,
  endTokenIds: [0],
} as const;

/** Without Qwen's attention biases, which are a vector a layer. */
const qwen: BenchModel = {
  name: 'Qwen2.5-7B',
  config: {
    ...shared,
    vocabSize: 152_064,
    hiddenSize: 3584,
    layers: 28,
    queryHeads: 28,
    kvHeads: 4,
    feedForwardSize: 18_944,
    ropeTheta: 1_000_000,
  },
};

/** Without Llama 3's frequency scaling, which changes numbers of a table. */
const llama31: BenchModel = {
  name: 'Llama-3.1-8B',
  config: {
    ...shared,
    vocabSize: 128_256,
    hiddenSize: 4096,
    layers: 32,
    queryHeads: 32,
    kvHeads: 8,
    feedForwardSize: 14_336,
    ropeTheta: 500_000,
  },
};

/** By the names of `--model`. */
export const benchModels: Readonly<Record<string, BenchModel>> = { qwen, llama: llama31 };

/** Of weights and caches: float16. */
export const elementBytes = 2;

/** Bytes of weights that a step reads: all but the embeddings, of which it reads some rows. */
export function stepWeightBytes(config: ModelConfig): number {
  let values = 0;
  for (const [name, shape] of llama.tensorShapes(config)) {
    if (name === 'model.embed_tokens.weight' && !config.tiedHead) continue;
    values += shape.reduce((product, length) => product * length, 1);
  }
  return values * elementBytes;
}

/** What a run of tokens through the dense graphs computes. */
export interface DenseWork {
  /** Rows that are there before. */
  readonly past: number;
  readonly tokens: number;
}

/**
 * Floating-point operations of matrix products and causal attention, a multiplication and an
 * addition each counted. Every layer projects and attends; what follows the last layer's attention
 * is never needed for a cache and left out, as the runtime does. No LM head.
 */
export function denseFlops(config: ModelConfig, { past, tokens }: DenseWork): number {
  const { layers, hiddenSize, queryHeads, kvHeads, headDim, feedForwardSize } = config;
  const queryWidth = queryHeads * headDim;
  const project = hiddenSize * (queryWidth + 2 * kvHeads * headDim);
  const behind = queryWidth * hiddenSize + 3 * hiddenSize * feedForwardSize;
  const seenRows = tokens * past + (tokens * (tokens + 1)) / 2;
  const attention = 2 * queryWidth * seenRows;
  return 2 * (tokens * (layers * project + (layers - 1) * behind) + layers * attention);
}
