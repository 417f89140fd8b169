import {
  DecoderBlocks,
  type GraphSource,
  type LinearPrecision,
  type Projections,
} from './decoder-blocks.ts';

/** What is fixed in a graph: another number of contexts takes another graph. */
export interface QueryGraphOptions {
  /** Contexts that the requests of one call share. */
  readonly contexts: number;
  /**
   * The layers `[from, to)` that the graph computes; default: all. Making a session takes longer
   * than in proportion to its nodes.
   */
  readonly layers?: { readonly from: number; readonly to: number };
  /** Default `float32`. */
  readonly linears?: LinearPrecision | undefined;
}

/**
 * Tokens of several requests over compact contexts in which every KV head has its own length. A
 * context is read once for all requests on it: the rows of its keys and values that a head holds
 * meet all queries of all its requests in one product. Each request's own tokens, its tail, are
 * attended to apart, and the two parts are merged by the sums of their softmaxes.
 *
 * With R requests of at most T tokens each, N tokens in all, inputs are:
 * - `input_ids`, `position_ids` int64 `[1, N]`, request after request;
 * - `tail_shape` int64 `[R, T, −1]`, which the tails' attention pads the tokens to: `tail_tokens`
 *   int64 `[R · T]`, the token in each of its places (any one where there is none), and
 *   `token_places` int64 `[N]`, the place of each token;
 * - `tail_last_rows` int32 `[R]` = each tail's rows after the call − 1; `tail_rows` int32 `[1]`
 *   = S, at least the longest tail; `tail_mask` bool `[R, 1, T, S]`, the tail rows that a token
 *   sees;
 * - per layer `tail_key.l` and `tail_value.l` `[R, kvHeads, capacity, headDim]`, bound as present
 *   too: tokens are appended in place;
 * - per context `c`, layer and KV head `context_key.c.l.h`, `context_value.c.l.h`
 *   `[rows, headDim]`; `absent` float32 `[layers, N, queryHeads]`: 0, or a large negative number
 *   where a context has no rows for a head;
 * - `last_tokens` int64 `[R]`, each request's last token;
 * - with several contexts `context_order` int64 `[N]`, the tokens sorted by context,
 *   `request_order` int64 `[N]`, the inverse, and `context_queries` int64 `[contexts]`, rows of
 *   queries on each.
 *
 * A graph of later layers takes `residual` and `normalized` float32 `[1, N, hidden]` in the place
 * of the tokens.
 *
 * Outputs: `tail_…_out` of the same; `residual_out` and `normalized_out` where layers are left,
 * else `logits` float32 `[1, R, vocabulary]`.
 *
 * A request's result does not depend on the others, to the last bit: rows do not meet in any
 * operator but the matrix products, where a row has the same bits whatever the other rows are, and
 * exponentials are only taken by Softmax, which works row by row; elsewhere they would be computed
 * in another way for the last elements of a tensor than for those before.
 */
export function queryGraph(source: GraphSource, options: QueryGraphOptions): Uint8Array {
  const blocks = new DecoderBlocks(source, options.linears);
  const { model } = blocks;
  const { layers, vocabSize } = source.config;
  const { from, to } = options.layers ?? { from: 0, to: layers };
  const attention = new SharedAttention(blocks, options.contexts);
  let state = from === 0 ? blocks.embed() : blocks.resume();
  for (let layer = from; layer < to; layer++) {
    const projections = blocks.project(layer, state.normalized);
    state = blocks.finishLayer(layer, state, attention.add(layer, projections));
  }
  if (to < layers) {
    blocks.leave(state);
    return model.encode();
  }
  const lastTokens = model.input('last_tokens', 'int64', ['requests']);
  const hidden = model.node('Gather', [state.normalized, lastTokens], { attributes: { axis: 1 } });
  const logits = model.output('logits', 'float32', [1, 'requests', vocabSize]);
  model.node('Identity', [blocks.head(hidden)], { outputs: [logits] });
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

class SharedAttention {
  readonly #blocks: DecoderBlocks;
  readonly #contexts: number;
  /** Per layer, `[1, N, queryHeads]`. */
  readonly #absent: readonly string[];

  constructor(blocks: DecoderBlocks, contexts: number) {
    this.#blocks = blocks;
    this.#contexts = contexts;
    const { model, config } = blocks;
    model.input('tail_shape', 'int64', [3]);
    model.input('tail_tokens', 'int64', ['places']);
    model.input('token_places', 'int64', ['tokens']);
    model.input('tail_last_rows', 'int32', ['requests']);
    model.input('tail_rows', 'int32', [1]);
    model.input('tail_mask', 'bool', ['requests', 1, 'request_tokens', 'tail_rows']);
    if (contexts > 1) {
      model.input('context_order', 'int64', ['tokens']);
      model.input('request_order', 'int64', ['tokens']);
      model.input('context_queries', 'int64', [contexts]);
    }
    const absent = model.input('absent', 'float32', [config.layers, 'tokens', config.queryHeads]);
    const each = model.integers(...Array.from({ length: config.layers }, () => 1));
    this.#absent = model.split(absent, 0, each, config.layers);
  }

  /** Attention of a layer, `[1, N, queryHeads · headDim]`. */
  add(layer: number, projections: Projections): string {
    const { model, config } = this.#blocks;
    const context = this.#contextPart(layer, projections.query);
    const tail = this.#tailPart(layer, projections);
    const weight = this.#tailWeight(context, tail);
    const change = model.node('Mul', [weight, model.node('Sub', [tail.output, context.output])]);
    const merged = model.node('Add', [context.output, change]);
    return this.#reshape(merged, 1, -1, config.queryHeads * config.headDim);
  }

  /** The tail's part of both sums, `[N, queryHeads, 1]`. */
  #tailWeight(context: Part, tail: Part): string {
    const { model } = this.#blocks;
    const largest = this.#concat([context.largest, tail.largest], 2);
    const exponentials = model.node('Softmax', [largest], { attributes: { axis: -1 } });
    const share = this.#concat([context.share, tail.share], 2);
    const sums = model.node('Div', [exponentials, share]);
    const [ofContext, ofTail] = model.split(sums, 2, model.integers(1, 1), 2);
    const both = model.node('Add', [ofContext as string, ofTail as string]);
    return model.node('Div', [ofTail as string, both]);
  }

  /** Attention over the context's rows alone: the same for all of a context's queries at once. */
  #contextPart(layer: number, query: string): Part {
    const { model, config } = this.#blocks;
    const { kvHeads, queryHeads, headDim } = config;
    const group = queryHeads / kvHeads;
    const widths = model.integers(...Array.from({ length: kvHeads }, () => group * headDim));
    const pieces = model.split(this.#sort(query, 1, 'context_order'), 2, widths, kvHeads);
    const heads = pieces.map((piece, head) =>
      this.#headOverContexts(layer, head, this.#reshape(piece, -1, headDim)),
    );
    const join = (part: keyof Part, width: number): string => {
      const rows = heads.map((head) => this.#reshape(head[part], 1, -1, group * width));
      return this.#sort(this.#concat(rows, 2), 1, 'request_order');
    };
    const largest = model.node('Add', [join('largest', 1), this.#absent[layer] as string]);
    return {
      output: this.#reshape(join('output', headDim), -1, queryHeads, headDim),
      largest: this.#reshape(largest, -1, queryHeads, 1),
      share: this.#reshape(join('share', 1), -1, queryHeads, 1),
    };
  }

  /** One KV head's queries, `[N · group, headDim]` sorted by context, over each context's rows. */
  #headOverContexts(layer: number, head: number, queries: string): Part {
    const { model } = this.#blocks;
    const byContext = model.split(queries, 0, 'context_queries', this.#contexts);
    const parts = byContext.map((rows, context) =>
      this.#headOverContext(`${context}.${layer}.${head}`, rows),
    );
    const join = (part: keyof Part): string =>
      this.#concat(
        parts.map((each) => each[part]),
        0,
      );
    return { output: join('output'), largest: join('largest'), share: join('share') };
  }

  /** Parts of `[rows, headDim]`, `[rows, 1]` and `[rows, 1]`. */
  #headOverContext(name: string, queries: string): Part {
    const { model, config } = this.#blocks;
    const dims = [null, config.headDim];
    const keys = model.input(`context_key.${name}`, 'float32', dims);
    const values = model.input(`context_value.${name}`, 'float32', dims);
    const isSingle = config.queryHeads === config.kvHeads;
    const rows = isSingle ? this.#concat([queries, queries], 0) : queries;
    const logits = model.node('FusedMatMul', [rows, keys], {
      microsoft: true,
      attributes: { transB: 1, alpha: { float: 1 / Math.sqrt(config.headDim) } },
    });
    const weights = model.node('Softmax', [logits], { attributes: { axis: -1 } });
    const part = {
      output: model.node('MatMul', [weights, values]),
      largest: this.#max(logits, 1),
      share: this.#max(weights, 1),
    };
    if (!isSingle) return part;
    return {
      output: this.#firstHalf(part.output, config.headDim),
      largest: this.#firstHalf(part.largest, 1),
      share: this.#firstHalf(part.share, 1),
    };
  }

  /** Attention over each request's own tokens, which are appended first. */
  #tailPart(layer: number, { query, key, value }: Projections): Part {
    const { model, config } = this.#blocks;
    const { kvHeads, queryHeads, headDim } = config;
    const byRequest = (tensor: string): string => {
      const padded = model.node('Gather', [tensor, 'tail_tokens'], { attributes: { axis: 1 } });
      return model.node('Reshape', [padded, 'tail_shape']);
    };
    const byToken = (value: string, width: number): string => {
      const places = this.#reshape(value, -1, queryHeads, width);
      return model.node('Gather', [places, 'token_places'], { attributes: { axis: 0 } });
    };
    const dims = ['requests', kvHeads, null, headDim];
    const output = model.fresh('tail');
    const logits = model.fresh('tail_logits');
    model.node(
      'GroupQueryAttention',
      [
        byRequest(query),
        byRequest(key),
        byRequest(value),
        model.input(`tail_key.${layer}`, 'float32', dims),
        model.input(`tail_value.${layer}`, 'float32', dims),
        'tail_last_rows',
        'tail_rows',
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
          model.output(`tail_key_out.${layer}`, 'float32', dims),
          model.output(`tail_value_out.${layer}`, 'float32', dims),
          logits,
        ],
      },
    );
    // What lies behind a tail's end is undefined, and may be no number at all.
    const unseen = model.constant('unseen', Float32Array.of(-1e30), [1]);
    const seen = model.node('Where', ['tail_mask', logits, unseen]);
    const weights = model.node('Softmax', [seen], { attributes: { axis: -1 } });
    const largestOf = (value: string): string => {
      const attributes = { perm: [0, 2, 1, 3] };
      return byToken(model.node('Transpose', [this.#max(value, 3)], { attributes }), 1);
    };
    return {
      output: byToken(output, headDim),
      largest: largestOf(seen),
      share: largestOf(weights),
    };
  }

  /**
   * A single row is multiplied by another kernel than several, with other bits: where a query would
   * be alone, it is doubled, and one half is taken from the results.
   */
  #firstHalf(value: string, width: number): string {
    const { model } = this.#blocks;
    const halves = this.#reshape(value, 2, -1, width);
    const first = model.node('Gather', [halves, model.integers(0)], { attributes: { axis: 0 } });
    return this.#reshape(first, -1, width);
  }

  #max(value: string, axis: number): string {
    const { model } = this.#blocks;
    return model.node('ReduceMax', [value, model.integers(axis)], { attributes: { keepdims: 1 } });
  }

  #sort(value: string, axis: number, order: string): string {
    if (this.#contexts === 1) return value;
    return this.#blocks.model.node('Gather', [value, order], { attributes: { axis } });
  }

  #concat(values: readonly string[], axis: number): string {
    if (values.length === 1) return values[0] as string;
    return this.#blocks.model.node('Concat', values, { attributes: { axis } });
  }

  #reshape(value: string, ...shape: readonly number[]): string {
    const { model } = this.#blocks;
    return model.node('Reshape', [value, model.integers(...shape)]);
  }
}

/** GroupQueryAttention's `qk_output`: hand out the scaled logits. */
const beforeSoftmax = 1;
