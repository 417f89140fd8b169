import type { ModelConfig } from '../model/config.ts';
import {
  DecoderBlocks,
  type GraphSource,
  type LayerState,
  type LinearPrecision,
} from './decoder-blocks.ts';
import { OnnxModel, type Dimension } from './onnx-model.ts';

/** Which of a model's query graphs: there is one more of them than layers. */
export interface QueryGraphOptions {
  /** The graph ends layer `stage − 1` and begins layer `stage`, as far as there are such layers. */
  readonly stage: number;
  /** Default `float32`. */
  readonly linears?: LinearPrecision | undefined;
}

/**
 * Tokens of several requests over compact contexts in which every KV head has its own length, from
 * one layer's attention over the contexts to the next one's. That attention lies between two of
 * these graphs, in a graph of its own for each context (`contextGraph`), so that any number of
 * contexts takes the same graphs. Each request's own tokens, its tail, are attended to here, and
 * the two parts are merged by the sums of their softmaxes.
 *
 * With R requests of at most T tokens each, N tokens in all, those of a context together, a graph
 * of any stage has some of these inputs:
 * - `input_ids`, `position_ids` int64 `[1, N]`, and the tables `rope_cos`, `rope_sin`;
 * - `residual` float32 `[1, N, hidden]`, and of the attention before both parts, `context_…` and
 *   `tail_…`: `output` float32 `[N, queryHeads, headDim]`, `largest` and `share` float32
 *   `[N, queryHeads, 1]`;
 * - `tail_shape` int64 `[R, T, −1]`, which the tails' attention pads the tokens to: `tail_tokens`
 *   int64 `[R · T]`, the token in each of its places (any one where there is none), and
 *   `token_places` int64 `[N]`, the place of each token;
 * - `tail_last_rows` int32 `[R]` = each tail's rows after the call − 1; `tail_rows` int32 `[1]`
 *   = S, at least the longest tail; `tail_mask` bool `[R, 1, T, S]`, the tail rows that a token
 *   sees;
 * - `tail_key` and `tail_value` `[R, kvHeads, capacity, headDim]`, bound as present too: tokens are
 *   appended in place;
 * - `last_tokens` int64 `[R]`, each request's last token.
 *
 * Outputs: `tail_key_out`, `tail_value_out`, `residual_out`, the tails' part as above, `…_out`, and
 * `query` float32 `[1, N, queryHeads · headDim]`; of the last stage `logits` float32
 * `[1, R, vocabulary]`. An output may lie where the input of its name does: it is written from what
 * was computed of that input.
 *
 * A request's result does not depend on the others, to the last bit: rows do not meet in any
 * operator but the matrix products, where a row has the same bits whatever the other rows are, and
 * exponentials are only taken by Softmax, which works row by row; elsewhere they would be computed
 * in another way for the last elements of a tensor than for those before.
 */
export function queryGraph(source: GraphSource, { stage, linears }: QueryGraphOptions): Uint8Array {
  const blocks = new DecoderBlocks(source, linears);
  const { model } = blocks;
  const { layers } = source.config;
  const state = stage === 0 ? blocks.embed() : endLayer(blocks, stage - 1);
  if (stage < layers) {
    beginLayer(blocks, stage, state);
    return model.encode();
  }
  const lastTokens = model.input('last_tokens', 'int64', ['requests']);
  const hidden = model.node('Gather', [state.normalized, lastTokens], { attributes: { axis: 1 } });
  const logits = model.output('logits', 'float32', [1, 'requests', source.config.vocabSize]);
  model.node('Identity', [blocks.head(hidden)], { outputs: [logits] });
  return model.encode();
}

/**
 * Attention of one layer over one context alone, for all tokens of all its requests: the rows that
 * a head holds are read once for them. The graph is the same for every layer.
 *
 * Inputs: `query` float32 `[tokens, queryHeads · headDim]`; per KV head `key.h` and `value.h`
 * float32 `[rows, headDim]`; `absent` float32 `[1, queryHeads]`: 0, or a large negative number
 * where the context has no rows for a head. Outputs: `output` float32
 * `[tokens, queryHeads · headDim]`, `largest` and `share` float32 `[tokens, queryHeads]`.
 */
export function contextGraph(config: ModelConfig): Uint8Array {
  const model = new OnnxModel();
  const { kvHeads, queryHeads, headDim } = config;
  const group = queryHeads / kvHeads;
  const width = queryHeads * headDim;
  const query = model.input('query', 'float32', ['tokens', width]);
  const absent = model.input('absent', 'float32', [1, queryHeads]);
  const widths = model.integers(...Array.from({ length: kvHeads }, () => group * headDim));
  const heads = model
    .split(query, 1, widths, kvHeads)
    .map((queries, head) => headOverContext(model, config, { head, queries }));
  const join = (part: keyof Part, outputs: readonly string[]): string => {
    const rows = heads.map((head) =>
      reshape(model, head[part], -1, group * (part === 'output' ? headDim : 1)),
    );
    return model.node('Concat', rows, { attributes: { axis: 1 }, outputs });
  };
  join('output', [model.output('output', 'float32', ['tokens', width])]);
  join('share', [model.output('share', 'float32', ['tokens', queryHeads])]);
  const largest = join('largest', [model.fresh('largest')]);
  const outputs = [model.output('largest', 'float32', ['tokens', queryHeads])];
  model.node('Add', [largest, absent], { outputs });
  return model.encode();
}

/**
 * Attention over some of a token's rows, `[N, queryHeads, headDim]`, and what its softmax's sum is
 * found by, `[N, queryHeads, 1]`: the sum of exponentials is `exp(largest) / share`. Maxima have
 * the same bits in any order.
 */
interface Part {
  readonly output: string;
  /** Largest logit. */
  readonly largest: string;
  /** Largest softmax weight, that of the largest logit. */
  readonly share: string;
}

/** One KV head's queries, `[tokens, group · headDim]`, over the context's rows for it. */
function headOverContext(
  model: OnnxModel,
  { queryHeads, kvHeads, headDim }: ModelConfig,
  { head, queries }: { readonly head: number; readonly queries: string },
): Part {
  const dims = [null, headDim];
  const keys = model.input(`key.${head}`, 'float32', dims);
  const values = model.input(`value.${head}`, 'float32', dims);
  const isSingle = queryHeads === kvHeads;
  const once = reshape(model, queries, -1, headDim);
  const rows = isSingle ? model.node('Concat', [once, once], { attributes: { axis: 0 } }) : once;
  const logits = model.node('FusedMatMul', [rows, keys], {
    microsoft: true,
    attributes: { transB: 1, alpha: { float: 1 / Math.sqrt(headDim) } },
  });
  const weights = model.node('Softmax', [logits], { attributes: { axis: -1 } });
  const part = {
    output: model.node('MatMul', [weights, values]),
    largest: maximum(model, logits, 1),
    share: maximum(model, weights, 1),
  };
  if (!isSingle) return part;
  return {
    output: firstHalf(model, part.output, headDim),
    largest: firstHalf(model, part.largest, 1),
    share: firstHalf(model, part.share, 1),
  };
}

/**
 * A single row is multiplied by another kernel than several, with other bits: where a query would
 * be alone, it is doubled, and one half is taken from the results.
 */
function firstHalf(model: OnnxModel, value: string, width: number): string {
  const halves = reshape(model, value, 2, -1, width);
  const first = model.node('Gather', [halves, model.integers(0)], { attributes: { axis: 0 } });
  return reshape(model, first, -1, width);
}

/** What follows a layer's attention, whose two parts are given. */
function endLayer(blocks: DecoderBlocks, layer: number): LayerState {
  const { model, config } = blocks;
  const { queryHeads, headDim, hiddenSize } = config;
  const residual = model.input('residual', 'float32', [1, 'tokens', hiddenSize]);
  const [context, tail] = ['context', 'tail'].map((name) => ({
    output: model.input(`${name}_output`, 'float32', ['tokens', queryHeads, headDim]),
    largest: model.input(`${name}_largest`, 'float32', ['tokens', queryHeads, 1]),
    share: model.input(`${name}_share`, 'float32', ['tokens', queryHeads, 1]),
  })) as [Part, Part];
  const weight = tailWeight(model, context, tail);
  const change = model.node('Mul', [weight, model.node('Sub', [tail.output, context.output])]);
  const merged = model.node('Add', [context.output, change]);
  const attention = reshape(model, merged, 1, -1, queryHeads * headDim);
  return blocks.finishLayer(layer, residual, attention);
}

/** The tail's part of both sums, `[N, queryHeads, 1]`. */
function tailWeight(model: OnnxModel, context: Part, tail: Part): string {
  const side = (part: 'largest' | 'share'): string =>
    model.node('Concat', [context[part], tail[part]], { attributes: { axis: 2 } });
  const exponentials = model.node('Softmax', [side('largest')], { attributes: { axis: -1 } });
  const sums = model.node('Div', [exponentials, side('share')]);
  const [ofContext, ofTail] = model.split(sums, 2, model.integers(1, 1), 2);
  const both = model.node('Add', [ofContext as string, ofTail as string]);
  return model.node('Div', [ofTail as string, both]);
}

/** A layer's queries, and attention over each request's own tokens, which are appended first. */
function beginLayer(blocks: DecoderBlocks, layer: number, state: LayerState): void {
  const { model, config } = blocks;
  const { queryHeads, headDim, hiddenSize } = config;
  const { query, key, value } = blocks.project(layer, state.normalized);
  const give = (name: string, given: string, dims: readonly Dimension[]): void => {
    model.node('Identity', [given], { outputs: [model.output(name, 'float32', dims)] });
  };
  give('residual_out', state.residual, [1, 'tokens', hiddenSize]);
  give('query', query, [1, 'tokens', queryHeads * headDim]);
  const places = tailInputs(model);
  const byRequest = (tensor: string): string => {
    const padded = model.node('Gather', [tensor, places.tokens], { attributes: { axis: 1 } });
    return model.node('Reshape', [padded, places.shape]);
  };
  const { output, logits } = tailAttention(blocks, [query, key, value].map(byRequest));
  // What lies behind a tail's end is undefined, and may be no number at all.
  const unseen = model.constant('unseen', Float32Array.of(-1e30), [1]);
  const seen = model.node('Where', [places.mask, logits, unseen]);
  const weights = model.node('Softmax', [seen], { attributes: { axis: -1 } });
  const largestOf = (logits: string): string => {
    const attributes = { perm: [0, 2, 1, 3] };
    return model.node('Transpose', [maximum(model, logits, 3)], { attributes });
  };
  const giveByToken = (name: keyof Part, given: string, width: number): void => {
    const rows = reshape(model, given, -1, queryHeads, width);
    const outputs = [model.output(`tail_${name}_out`, 'float32', ['tokens', queryHeads, width])];
    model.node('Gather', [rows, places.ofTokens], { attributes: { axis: 0 }, outputs });
  };
  giveByToken('output', output, headDim);
  giveByToken('largest', largestOf(seen), 1);
  giveByToken('share', largestOf(weights), 1);
}

/** How tokens lie in their tails: the names of inputs. */
interface TailPlaces {
  readonly shape: string;
  readonly tokens: string;
  readonly ofTokens: string;
  readonly mask: string;
}

function tailInputs(model: OnnxModel): TailPlaces {
  return {
    shape: model.input('tail_shape', 'int64', [3]),
    tokens: model.input('tail_tokens', 'int64', ['places']),
    ofTokens: model.input('token_places', 'int64', ['tokens']),
    mask: model.input('tail_mask', 'bool', ['requests', 1, 'request_tokens', 'tail_rows']),
  };
}

/** Attention of padded tokens over their own tails, and its scaled logits. */
function tailAttention(
  { model, config }: DecoderBlocks,
  projections: readonly string[],
): { readonly output: string; readonly logits: string } {
  const { kvHeads, queryHeads, headDim } = config;
  const dims = ['requests', kvHeads, null, headDim];
  const [output, logits] = [model.fresh('tail'), model.fresh('tail_logits')];
  model.node(
    'GroupQueryAttention',
    [
      ...projections,
      model.input('tail_key', 'float32', dims),
      model.input('tail_value', 'float32', dims),
      model.input('tail_last_rows', 'int32', ['requests']),
      model.input('tail_rows', 'int32', [1]),
    ],
    {
      microsoft: true,
      attributes: {
        num_heads: queryHeads,
        kv_num_heads: kvHeads,
        do_rotary: 0,
        qk_output: beforeSoftmax,
      },
      outputs: [
        output,
        model.output('tail_key_out', 'float32', dims),
        model.output('tail_value_out', 'float32', dims),
        logits,
      ],
    },
  );
  return { output, logits };
}

function maximum(model: OnnxModel, value: string, axis: number): string {
  return model.node('ReduceMax', [value, model.integers(axis)], { attributes: { keepdims: 1 } });
}

function reshape(model: OnnxModel, value: string, ...shape: readonly number[]): string {
  return model.node('Reshape', [value, model.integers(...shape)]);
}

/** GroupQueryAttention's `qk_output`: hand out the scaled logits. */
const beforeSoftmax = 1;
