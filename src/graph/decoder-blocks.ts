import { basename } from 'node:path';
import { defined } from '../core/assert.ts';
import type { ModelConfig } from '../model/config.ts';
import type { FourBitLinear, TensorRef } from '../model/checkpoint.ts';
import { Float32Linears, FourBitLinears, product, type Linears } from './linears.ts';
import { OnnxModel } from './onnx-model.ts';

/** What a graph is authored from. */
export interface GraphSource {
  readonly config: ModelConfig;
  readonly tensors: ReadonlyMap<string, TensorRef>;
  /** For graphs that multiply by four-bit blocks. */
  readonly fourBit?: ReadonlyMap<string, FourBitLinear> | undefined;
}

/** What a graph multiplies by in its layers: the float32 values, or four-bit blocks of them. */
export type LinearPrecision = 'float32' | 'fourBit';

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
  readonly #linears: Linears;
  #rotary: readonly string[] | undefined;

  constructor(source: GraphSource, precision: LinearPrecision = 'float32') {
    this.config = source.config;
    this.#tensors = source.tensors;
    const linears = new Float32Linears(this.model, source.tensors);
    this.#linears =
      precision === 'float32'
        ? linears
        : new FourBitLinears(this.model, defined(source.fourBit, 'four-bit weights'), linears);
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

  /** The state that a graph of earlier layers left. */
  resume(): LayerState {
    const dims = [1, 'tokens', this.config.hiddenSize];
    return {
      residual: this.model.input('residual', 'float32', dims),
      normalized: this.model.input('normalized', 'float32', dims),
    };
  }

  /** Hands the state to a graph of later layers. */
  leave(state: LayerState): void {
    const dims = [1, 'tokens', this.config.hiddenSize];
    for (const name of ['residual', 'normalized'] as const) {
      const outputs = [this.model.output(`${name}_out`, 'float32', dims)];
      this.model.node('Identity', [state[name]], { outputs });
    }
  }

  project(layer: number, normalized: string): Projections {
    const { queryHeads, kvHeads, attentionBias } = this.config;
    const names = ['q_proj', 'k_proj', 'v_proj'].map((name) =>
      layerTensor(layer, `self_attn.${name}`),
    );
    const [query, key, value] = this.#multiply(normalized, names, attentionBias);
    return {
      query: this.#rotate(defined(query, 'queries'), queryHeads),
      key: this.#rotate(defined(key, 'keys'), kvHeads),
      value: defined(value, 'values'),
    };
  }

  /** Attention output projection, feed-forward block, and the next layer's (or the final) norm. */
  finishLayer(layer: number, residual: string, attention: string): LayerState {
    const { attentionBias, feedForwardBias, layers } = this.config;
    const output = layerTensor(layer, 'self_attn.o_proj');
    const [projected] = this.#multiply(attention, [output], attentionBias);
    const inner = this.#addAndNormalize(
      residual,
      defined(projected, 'projection'),
      layerTensor(layer, 'post_attention_layernorm.weight'),
    );
    const multiply = (input: string, ...names: readonly string[]): readonly string[] => {
      const ofLayer = names.map((name) => layerTensor(layer, `mlp.${name}`));
      return this.#multiply(input, ofLayer, feedForwardBias);
    };
    const [gate, up] = multiply(inner.normalized, 'gate_proj', 'up_proj');
    const activated = this.model.node('QuickGelu', [defined(gate, 'gate')], {
      microsoft: true,
      attributes: { alpha: { float: 1 } },
    });
    const gated = this.model.node('Mul', [activated, defined(up, 'up')]);
    const [down] = multiply(gated, 'down_proj');
    const next = layer + 1 < layers ? layerTensor(layer + 1, 'input_layernorm.weight') : finalNorm;
    return this.#addAndNormalize(inner.residual, defined(down, 'down'), next);
  }

  /** Logits `[1, rows, vocabulary]` of final hidden states. */
  head(hidden: string): string {
    return product(this.model, hidden, this.#tensor(this.config.tiedHead ? embedding : headName));
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
    const dims = [this.config.contextLength, this.config.headDim / 2];
    // Inputs, since tables inside the file would be copied into every graph of a model.
    this.#rotary ??= [
      this.model.input('position_ids', 'int64', [1, 'tokens']),
      this.model.input('rope_cos', 'float32', dims),
      this.model.input('rope_sin', 'float32', dims),
    ];
    return this.model.node('RotaryEmbedding', [value, ...this.#rotary], {
      microsoft: true,
      attributes: { interleaved: 0, num_heads: heads },
    });
  }

  #multiply(input: string, names: readonly string[], bias: boolean): readonly string[] {
    const products = this.#linears.multiply(input, names);
    if (!bias) return products;
    return products.map((each, i) =>
      this.model.node('Add', [each, this.#weight(`${defined(names[i], 'a name')}.bias`)]),
    );
  }

  #weight(name: string): string {
    const tensor = this.#tensor(name);
    return this.model.weight(tensor, basename(tensor.file));
  }

  #tensor(name: string): TensorRef {
    return defined(this.#tensors.get(name), `tensor ${name}`);
  }
}

const headName = 'lm_head.weight';
const embedding = 'model.embed_tokens.weight';
const finalNorm = 'model.norm.weight';

function layerTensor(layer: number, name: string): string {
  return `model.layers.${layer}.${name}`;
}
