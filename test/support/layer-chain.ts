import { readFileSync } from 'node:fs';
import { assert, defined } from '../../src/core/assert.ts';
import { layerGraph, type LayerGraphKind } from '../../src/graph/layer-graphs.ts';
import type { TensorRef } from '../../src/model/checkpoint.ts';
import { ropeTables } from '../../src/model/rope.ts';
import { loadOrt } from '../../src/runtime/ort/api.ts';
import { OrtEnvironment, type OrtSession } from '../../src/runtime/ort/session.ts';
import type { TensorData } from '../../src/runtime/ort/tensor.ts';
import type { TinyModel } from './tiny-model.ts';

/** A tensor of a graph: its numbers, and its shape. */
type Value = readonly [data: TensorData, shape: readonly number[]];
type Values = Readonly<Record<string, Value>>;

const kinds: readonly LayerGraphKind[] = ['begin', 'attend', 'between', 'end'];

/**
 * The layer graphs chained over all layers as a GPU's runtime chains them, but in float32 on
 * ONNX Runtime's CPU provider, with a cache of its own.
 */
export class LayerChain {
  /** By layer, `[kvHeads, capacity, headDim]`. */
  readonly keys: readonly Float32Array[];
  readonly values: readonly Float32Array[];
  length = 0;
  readonly #model: TinyModel;
  readonly #capacity: number;
  readonly #environment: OrtEnvironment;
  readonly #sessions: ReadonlyMap<LayerGraphKind, OrtSession>;

  constructor(model: TinyModel, capacity: number) {
    this.#model = model;
    this.#capacity = capacity;
    const { layers, kvHeads, headDim } = model.config;
    const cache = (): readonly Float32Array[] =>
      Array.from({ length: layers }, () => new Float32Array(kvHeads * capacity * headDim));
    [this.keys, this.values] = [cache(), cache()];
    this.#environment = new OrtEnvironment(loadOrt(), { threads: 1, tensors: [] });
    this.#sessions = new Map(
      kinds.map((kind) => {
        const graph = layerGraph(kind, model.config, 'float32');
        return [kind, this.#environment.createSession(graph, '.')];
      }),
    );
  }

  /** Appends the tokens; the normalised hidden states `[rows, hidden]` of some of them. */
  run(ids: Int32Array, rows: readonly number[]): Float32Array {
    const { layers, hiddenSize } = this.#model.config;
    const tokens = ids.length;
    const long = (values: ArrayLike<number>): BigInt64Array =>
      BigInt64Array.from(Array.from(values, BigInt));
    const positions: Value = [long(Array.from(ids, (_, i) => this.length + i)), [1, tokens]];
    let state = this.#run(
      'begin',
      {
        input_ids: [long(ids), [1, tokens]],
        position_ids: positions,
        ...this.#weights({ embedding: ['model.embed_tokens.weight'] }),
        ...this.#norms(0, { input_norm: 'input_layernorm' }),
        ...this.#aheadOf(0),
      },
      { residual_out: this.#room(tokens, hiddenSize), ...this.#projections(tokens) },
    );
    for (let layer = 0; layer + 1 < layers; layer++) {
      state = this.#run(
        'between',
        {
          attention: this.#attend(layer, tokens, state),
          residual: defined(state['residual_out'], 'residual'),
          position_ids: positions,
          ...this.#behind(layer),
          ...this.#norms(layer + 1, { next_norm: 'input_layernorm' }),
          ...this.#aheadOf(layer + 1),
        },
        { residual_out: this.#room(tokens, hiddenSize), ...this.#projections(tokens) },
      );
    }
    const end = this.#run(
      'end',
      {
        attention: this.#attend(layers - 1, tokens, state),
        residual: defined(state['residual_out'], 'residual'),
        rows: [long(rows), [rows.length]],
        ...this.#behind(layers - 1),
        ...this.#weights({ next_norm: ['model.norm.weight'] }),
      },
      { hidden: this.#room(rows.length, hiddenSize) },
    );
    this.length += tokens;
    const [hidden] = defined(end['hidden'], 'hidden states');
    assert(hidden instanceof Float32Array, 'hidden states of float32');
    return hidden;
  }

  close(): void {
    for (const session of this.#sessions.values()) session.close();
    this.#environment.close();
  }

  /** Puts the layer's new keys and values into the cache, and attends to all of it. */
  #attend(layer: number, tokens: number, { query, key, value }: Values): Value {
    const { queryHeads, kvHeads, headDim } = this.#model.config;
    const rows = this.length + tokens;
    const shape = [1, kvHeads, this.#capacity, headDim];
    const [keys, values] = [
      [defined(this.keys[layer], 'keys'), shape],
      [defined(this.values[layer], 'values'), shape],
    ] as const;
    const { attention } = this.#run(
      'attend',
      {
        query: defined(query, 'query'),
        key: defined(key, 'key'),
        value: defined(value, 'value'),
        past_key: keys,
        past_value: values,
        last_row: [Int32Array.of(rows - 1), [1]],
        total_rows: [Int32Array.of(rows), [1]],
      },
      {
        attention: this.#room(tokens, queryHeads * headDim),
        present_key: keys,
        present_value: values,
      },
    );
    return defined(attention, 'attention');
  }

  #run(kind: LayerGraphKind, inputs: Values, outputs: Values): Values {
    const binding = defined(this.#sessions.get(kind), kind).bind();
    const bound = (values: Values) =>
      Object.entries(values).map(([name, [data, shape]]) => ({
        name,
        tensor: this.#environment.tensor(data, shape),
      }));
    const [given, taken] = [bound(inputs), bound(outputs)];
    for (const { name, tensor } of given) binding.input(name, tensor);
    for (const { name, tensor } of taken) binding.output(name, tensor);
    binding.run();
    binding.close();
    for (const { tensor } of [...given, ...taken]) tensor.close();
    return outputs;
  }

  #room(tokens: number, width: number): Value {
    return [new Float32Array(tokens * width).fill(NaN), [1, tokens, width]];
  }

  #projections(tokens: number): Values {
    const { queryHeads, kvHeads, headDim } = this.#model.config;
    return {
      query: this.#room(tokens, queryHeads * headDim),
      key: this.#room(tokens, kvHeads * headDim),
      value: this.#room(tokens, kvHeads * headDim),
    };
  }

  #aheadOf(layer: number): Values {
    const { attentionBias, contextLength, headDim } = this.#model.config;
    const tables = ropeTables(this.#model.config);
    const shape = [contextLength, headDim / 2];
    return {
      ...this.#linear(layer, attentionBias, {
        qkv: ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'],
      }),
      cos: [tables.cos, shape],
      sin: [tables.sin, shape],
    };
  }

  #behind(layer: number): Values {
    const { attentionBias, feedForwardBias } = this.#model.config;
    return {
      ...this.#linear(layer, attentionBias, { attention_out: ['self_attn.o_proj'] }),
      ...this.#norms(layer, { inner_norm: 'post_attention_layernorm' }),
      ...this.#linear(layer, feedForwardBias, {
        gate_up: ['mlp.gate_proj', 'mlp.up_proj'],
        down: ['mlp.down_proj'],
      }),
    };
  }

  #norms(layer: number, names: Readonly<Record<string, string>>): Values {
    const full = Object.entries(names).map(([name, norm]) => [
      name,
      [`model.layers.${layer}.${norm}.weight`],
    ]);
    return this.#weights(Object.fromEntries(full) as Record<string, readonly string[]>);
  }

  /** Matrices that multiply one input, one behind another, and their biases. */
  #linear(layer: number, hasBias: boolean, names: Readonly<Record<string, readonly string[]>>) {
    const part = (suffix: string, kind: string): Values =>
      this.#weights(
        Object.fromEntries(
          Object.entries(names).map(([name, parts]) => [
            `${name}${suffix}`,
            parts.map((each) => `model.layers.${layer}.${each}.${kind}`),
          ]),
        ),
      );
    return { ...part('', 'weight'), ...(hasBias && part('_bias', 'bias')) };
  }

  #weights(names: Readonly<Record<string, readonly string[]>>): Values {
    return Object.fromEntries(
      Object.entries(names).map(([name, parts]) => [name, joined(this.#model, parts)]),
    );
  }
}

function joined({ tensors }: TinyModel, names: readonly string[]): Value {
  const refs = names.map((name) => defined(tensors.get(name), name));
  const rows = refs.reduce((sum, { shape }) => sum + (shape[0] ?? 0), 0);
  const data = Float32Array.from(refs.flatMap((ref) => [...tensorValues(ref)]));
  return [data, [rows, ...(refs[0]?.shape.slice(1) ?? [])]];
}

/** The numbers of a float32 tensor in its file. */
export function tensorValues({ file, offsetBytes, sizeBytes }: TensorRef): Float32Array {
  const bytes = readFileSync(file).subarray(offsetBytes, offsetBytes + sizeBytes);
  return new Float32Array(Uint8Array.from(bytes).buffer);
}
