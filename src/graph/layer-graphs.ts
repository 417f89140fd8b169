import { assert } from '../core/assert.ts';
import type { ModelConfig } from '../model/config.ts';
import { OnnxModel, type OnnxType } from './onnx-model.ts';

/** What a device computes in. */
export type ComputeType = Extract<OnnxType, 'float16' | 'bfloat16'>;

/** What layer graphs can be made for: float32 is what a CPU checks them in. */
export type LayerGraphType = ComputeType | Extract<OnnxType, 'float32'>;

/**
 * The decoder cut where attention finds its keys, one graph for all layers: weights are inputs, so
 * that one copy of them serves every layer's run, whatever is computed.
 *
 * - `begin`: tokens to the first layer's projections.
 * - `attend`: attention over an uncompressed cache, appended in place.
 * - `between`: what follows a layer's attention, up to the next one's projections.
 * - `end`: what follows the last layer's attention, for some of the tokens.
 */
export type LayerGraphKind = 'begin' | 'attend' | 'between' | 'end';

/**
 * Names of a graph's inputs and outputs; all but those said otherwise are of the compute type.
 *
 * Activations: `input_ids` int64 `[1, T]`, `position_ids` int64 `[1, T]`, `rows` int64 `[R]`;
 * `residual`, `residual_out` `[1, T, hidden]`; `query` `[1, T, queryHeads · headDim]`, `key` and
 * `value` `[1, T, kvHeads · headDim]`, queries and keys rotated; `attention` as `query`; `hidden`
 * `[1, R, hidden]`, normalised for the LM head.
 * Weights, `[outputs, inputs]`: `embedding`, `qkv` (query, key, value rows), `attention_out`,
 * `gate_up` (gate, up rows), `down`; biases as `qkv_bias` where the model has them; norms
 * `input_norm`, `inner_norm`, `next_norm`; RoPE tables `cos`, `sin` `[contextLength, headDim / 2]`.
 * Cache: `past_key`, `past_value`, `present_key`, `present_value` `[1, kvHeads, capacity, headDim]`
 * of one memory; `last_row` int32 `[1]` = rows after the call − 1; `total_rows` int32 `[1]`, in
 * host memory.
 */
export function layerGraph(
  kind: LayerGraphKind,
  config: ModelConfig,
  type: LayerGraphType,
): Uint8Array {
  const layer = new LayerGraph(config, type);
  switch (kind) {
    case 'begin':
      layer.begin();
      break;
    case 'attend':
      layer.attend();
      break;
    case 'between':
      layer.between();
      break;
    case 'end':
      layer.end();
      break;
  }
  return layer.model.encode();
}

class LayerGraph {
  readonly model = new OnnxModel();
  readonly #config: ModelConfig;
  readonly #type: LayerGraphType;

  constructor(config: ModelConfig, type: LayerGraphType) {
    this.#config = config;
    this.#type = type;
  }

  begin(): void {
    const { vocabSize, hiddenSize } = this.#config;
    const ids = this.model.input('input_ids', 'int64', [1, 'tokens']);
    const embedding = this.#input('embedding', [vocabSize, hiddenSize]);
    const residual = this.model.node('Gather', [embedding, ids], {
      attributes: { axis: 0 },
      outputs: [this.#output('residual_out', hiddenSize)],
    });
    const normalized = this.model.node(
      'SimplifiedLayerNormalization',
      [residual, this.#input('input_norm', [hiddenSize])],
      { attributes: { axis: -1, epsilon: this.#epsilon(), stash_type: 1 } },
    );
    this.#project(normalized);
  }

  attend(): void {
    const { queryHeads, kvHeads, headDim } = this.#config;
    const rows = [1, kvHeads, 'capacity', headDim] as const;
    this.model.node(
      'GroupQueryAttention',
      [
        this.#activation('query', queryHeads * headDim),
        this.#activation('key', kvHeads * headDim),
        this.#activation('value', kvHeads * headDim),
        this.model.input('past_key', this.#type, rows),
        this.model.input('past_value', this.#type, rows),
        this.model.input('last_row', 'int32', [1]),
        this.model.input('total_rows', 'int32', [1]),
      ],
      {
        microsoft: true,
        attributes: { num_heads: queryHeads, kv_num_heads: kvHeads, do_rotary: 0 },
        outputs: [
          this.#output('attention', queryHeads * headDim),
          this.model.output('present_key', this.#type, rows),
          this.model.output('present_value', this.#type, rows),
        ],
      },
    );
  }

  between(): void {
    const { queryHeads, headDim, hiddenSize } = this.#config;
    const update = this.#feedForward(
      this.#activation('attention', queryHeads * headDim),
      this.#activation('residual', hiddenSize),
    );
    const next = this.#addAndNormalize(
      update,
      'next_norm',
      this.#output('residual_out', hiddenSize),
    );
    this.#project(next.normalized);
  }

  end(): void {
    const { queryHeads, headDim, hiddenSize } = this.#config;
    const rows = this.model.input('rows', 'int64', ['rows']);
    const pick = (value: string): string =>
      this.model.node('Gather', [value, rows], { attributes: { axis: 1 } });
    const update = this.#feedForward(
      pick(this.#activation('attention', queryHeads * headDim)),
      pick(this.#activation('residual', hiddenSize)),
    );
    const hidden = this.model.output('hidden', this.#type, [1, 'rows', hiddenSize]);
    this.#addAndNormalize(update, 'next_norm', undefined, hidden);
  }

  /** Attention's output projection and the feed-forward block: a residual and what to add to it. */
  #feedForward(attention: string, residual: string): Update {
    const { queryHeads, headDim, hiddenSize, feedForwardSize, attentionBias, feedForwardBias } =
      this.#config;
    const projected = this.#multiply(attention, 'attention_out', {
      outputs: hiddenSize,
      inputs: queryHeads * headDim,
      bias: attentionBias,
    });
    const inner = this.#addAndNormalize({ residual, update: projected }, 'inner_norm');
    const gateUp = this.#multiply(inner.normalized, 'gate_up', {
      outputs: 2 * feedForwardSize,
      inputs: hiddenSize,
      bias: feedForwardBias,
    });
    const halves = this.model.integers(feedForwardSize, feedForwardSize);
    const [gate, up] = this.model.split(gateUp, -1, halves, 2);
    assert(gate !== undefined && up !== undefined, 'two halves');
    const activated = this.model.node('QuickGelu', [gate], {
      microsoft: true,
      attributes: { alpha: { float: 1 } },
    });
    const gated = this.model.node('Mul', [activated, up]);
    const update = this.#multiply(gated, 'down', {
      outputs: hiddenSize,
      inputs: feedForwardSize,
      bias: feedForwardBias,
    });
    return { residual: inner.residual, update };
  }

  #project(normalized: string): void {
    const { queryHeads, kvHeads, headDim, hiddenSize, contextLength, attentionBias } = this.#config;
    const sizes = [queryHeads, kvHeads, kvHeads].map((heads) => heads * headDim);
    const projected = this.#multiply(normalized, 'qkv', {
      outputs: sizes.reduce((sum, size) => sum + size, 0),
      inputs: hiddenSize,
      bias: attentionBias,
    });
    const [query, key] = [this.model.fresh('query'), this.model.fresh('key')];
    const value = this.#output('value', kvHeads * headDim);
    this.model.node('Split', [projected, this.model.integers(...sizes)], {
      attributes: { axis: -1 },
      outputs: [query, key, value],
    });
    const positions = this.model.input('position_ids', 'int64', [1, 'tokens']);
    const tables = ['cos', 'sin'].map((name) => this.#input(name, [contextLength, headDim / 2]));
    for (const [name, from, heads] of [
      ['query', query, queryHeads],
      ['key', key, kvHeads],
    ] as const) {
      this.model.node('RotaryEmbedding', [from, positions, ...tables], {
        microsoft: true,
        attributes: { interleaved: 0, num_heads: heads },
        outputs: [this.#output(name, heads * headDim)],
      });
    }
  }

  #multiply(
    input: string,
    name: string,
    { outputs, inputs, bias }: { outputs: number; inputs: number; bias: boolean },
  ): string {
    const product = this.model.node('FusedMatMul', [input, this.#input(name, [outputs, inputs])], {
      microsoft: true,
      attributes: { transB: 1 },
    });
    if (!bias) return product;
    return this.model.node('Add', [product, this.#input(`${name}_bias`, [outputs])]);
  }

  /** The sum, named `sum` if given, and its normalised copy, named `normalized` if given. */
  #addAndNormalize(
    { residual, update }: Update,
    norm: string,
    sum = this.model.fresh('residual'),
    normalized = this.model.fresh('normalized'),
  ): { readonly residual: string; readonly normalized: string } {
    this.model.node(
      'SkipSimplifiedLayerNormalization',
      [residual, update, this.#input(norm, [this.#config.hiddenSize])],
      {
        microsoft: true,
        attributes: { epsilon: this.#epsilon() },
        outputs: [normalized, '', '', sum],
      },
    );
    return { residual: sum, normalized };
  }

  #epsilon(): { readonly float: number } {
    return { float: this.#config.rmsEpsilon };
  }

  #input(name: string, dims: readonly number[]): string {
    return this.model.input(name, this.#type, dims);
  }

  #activation(name: string, width: number): string {
    return this.model.input(name, this.#type, [1, 'tokens', width]);
  }

  #output(name: string, width: number): string {
    return this.model.output(name, this.#type, [1, 'tokens', width]);
  }
}

/** A residual stream, and what is to be added to it. */
interface Update {
  readonly residual: string;
  readonly update: string;
}
