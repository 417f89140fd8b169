import type { KvLayout } from '../core/kv-layout.ts';

/** Llama 3's frequency scaling (`rope_type: "llama3"`); wavelengths are in tokens. */
export interface Llama3RopeScaling {
  readonly kind: 'llama3';
  readonly factor: number;
  readonly lowFrequencyFactor: number;
  readonly highFrequencyFactor: number;
  readonly originalContextLength: number;
}

/** What a decoder's graph is built from, whatever file format said it. */
export interface ModelConfig {
  /** A family of `src/model/families`. */
  readonly family: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly layers: number;
  readonly queryHeads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Width of the gated feed-forward block. */
  readonly feedForwardSize: number;
  readonly rmsEpsilon: number;
  /** The model's window: positions 0 … contextLength − 1. */
  readonly contextLength: number;
  readonly ropeTheta: number;
  readonly ropeScaling: Llama3RopeScaling | null;
  /** The LM head is the embedding matrix. */
  readonly tiedHead: boolean;
  /** q, k, v and o projections have biases. */
  readonly attentionBias: boolean;
  /** gate, up and down projections have biases. */
  readonly feedForwardBias: boolean;
  /** Tokens that end an answer. */
  readonly endTokenIds: readonly number[];
}

/** The KV cache shape of a model. */
export function kvLayout(config: ModelConfig): KvLayout {
  return {
    layers: config.layers,
    kvHeads: config.kvHeads,
    group: config.queryHeads / config.kvHeads,
    headDim: config.headDim,
  };
}
