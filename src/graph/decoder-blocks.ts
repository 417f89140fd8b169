import { basename } from 'node:path';
import { defined } from '../core/assert.ts';
import type { ModelConfig } from '../model/config.ts';
import type { TensorRef } from '../model/checkpoint.ts';
import { ropeTables } from '../model/rope.ts';
import { OnnxModel } from './onnx-model.ts';

/** What a graph is authored from. */
export interface GraphSource {
  readonly config: ModelConfig;
  readonly tensors: ReadonlyMap<string, TensorRef>;
}

/** Queries, keys and values of a layer's tokens, `[1, T, heads · headDim]`, q and k rotated. */
export interface Projections {
  readonly query: string;
  readonly key: string;
  readonly value: string;
}

/** The residual stream and its normalised copy, both `[1, T, hidden]`. */
export interface LayerState {
  readonly residual: string;
  readonly normalized: string;
}

/**
 * The blocks of a Llama decoder that every graph shares; what differs between graphs is only how
 * attention finds its keys. Values are named, shapes are `[1, T, features]`.
 */
export class DecoderBlocks {
  readonly model = new OnnxModel();
  readonly config: ModelConfig;
  readonly #tensors: ReadonlyMap<string, TensorRef>;
  readonly #positions: string;
  readonly #cos: string;
  readonly #sin: string;

  constructor(source: GraphSource) {
    this.config = source.config;
    this.#tensors = source.tensors;
    this.#positions = this.model.input('position_ids', 'int64', [1, 'tokens']);
    const tables = ropeTables(source.config);
    const dims = [source.config.contextLength, source.config.headDim / 2];
    this.#cos = this.model.constant('rope.cos', tables.cos, dims);
    this.#sin = this.model.constant('rope.sin', tables.sin, dims);
  }

  /** Token embeddings and the first layer's input norm. */
  embed(): LayerState {
    const ids = this.model.input('input_ids', 'int64', [1, 'tokens']);
    const residual = this.model.node('Gather', [this.#weight(embedding), ids], {
      attributes: { axis: 0 },
    });
    const normalized = this.model.node(
      'SimplifiedLayerNormalization',
      [residual, this.#weight(layerTensor(0, 'input_layernorm.weight'))],
      { attributes: { axis: -1, epsilon: { float: this.config.rmsEpsilon }, stash_type: 1 } },
    );
    return { residual, normalized };
  }

  project(layer: number, normalized: string): Projections {
    const { queryHeads, kvHeads, attentionBias } = this.config;
    const linear = (name: string): string =>
      this.#linear(layerTensor(layer, `self_attn.${name}`), normalized, attentionBias);
    return {
      query: this.#rotate(linear('q_proj'), queryHeads),
      key: this.#rotate(linear('k_proj'), kvHeads),
      value: linear('v_proj'),
    };
  }

  /** Attention output projection, feed-forward block, and the next layer's (or the final) norm. */
  finishLayer(layer: number, state: LayerState, attention: string): LayerState {
    const { attentionBias, feedForwardBias, layers } = this.config;
    const projected = this.#linear(
      layerTensor(layer, 'self_attn.o_proj'),
      attention,
      attentionBias,
    );
    const inner = this.#addAndNormalize(
      state.residual,
      projected,
      layerTensor(layer, 'post_attention_layernorm.weight'),
    );
    const linear = (name: string, input: string): string =>
      this.#linear(layerTensor(layer, `mlp.${name}`), input, feedForwardBias);
    const gate = this.model.node('QuickGelu', [linear('gate_proj', inner.normalized)], {
      microsoft: true,
      attributes: { alpha: { float: 1 } },
    });
    const gated = this.model.node('Mul', [gate, linear('up_proj', inner.normalized)]);
    const next = layer + 1 < layers ? layerTensor(layer + 1, 'input_layernorm.weight') : finalNorm;
    return this.#addAndNormalize(inner.residual, linear('down_proj', gated), next);
  }

  /** Logits `[1, rows, vocabulary]` of final hidden states. */
  head(hidden: string): string {
    return this.#matmul(hidden, this.#weight(this.config.tiedHead ? embedding : 'lm_head.weight'));
  }

  #addAndNormalize(residual: string, update: string, norm: string): LayerState {
    const [normalized, sum] = [this.model.fresh('normalized'), this.model.fresh('residual')];
    this.model.node('SkipSimplifiedLayerNormalization', [residual, update, this.#weight(norm)], {
      microsoft: true,
      attributes: { epsilon: { float: this.config.rmsEpsilon } },
      outputs: [normalized, '', '', sum],
    });
    return { residual: sum, normalized };
  }

  #rotate(value: string, heads: number): string {
    return this.model.node('RotaryEmbedding', [value, this.#positions, this.#cos, this.#sin], {
      microsoft: true,
      attributes: { interleaved: 0, num_heads: heads },
    });
  }

  #linear(name: string, input: string, bias: boolean): string {
    const product = this.#matmul(input, this.#weight(`${name}.weight`));
    return bias ? this.model.node('Add', [product, this.#weight(`${name}.bias`)]) : product;
  }

  #matmul(input: string, weight: string): string {
    return this.model.node('FusedMatMul', [input, weight], {
      microsoft: true,
      attributes: { transB: 1 },
    });
  }

  #weight(name: string): string {
    const tensor = defined(this.#tensors.get(name), `tensor ${name}`);
    return this.model.weight(tensor, basename(tensor.file));
  }
}

const embedding = 'model.embed_tokens.weight';
const finalNorm = 'model.norm.weight';

function layerTensor(layer: number, name: string): string {
  return `model.layers.${layer}.${name}`;
}
