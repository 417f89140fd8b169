import { DecoderBlocks, type GraphSource, type Projections } from './decoder-blocks.ts';

/** What a graph gives beside the cache's new rows; plain prefill takes neither. */
export interface DenseGraphOptions {
  /** Adds the score outputs of a reconstruction pass. */
  readonly score: boolean;
  /** Adds next-token predictions for every token (the LM head's cost). */
  readonly predict: boolean;
  /** The layers `[from, to)` that the graph computes: a pass is cut into bounded pieces. */
  readonly layers: { readonly from: number; readonly to: number };
}

/**
 * One request's tokens over an uncompressed cache that is appended in place: prefill and
 * reconstruction passes. Per layer `l` the cache is bound as past and present of one memory,
 * `[1, kvHeads, capacity, headDim]`.
 *
 * A graph of the first layers begins with the tokens, others with the state that the one before
 * left, `residual` and `normalized` `[1, T, hidden]`, and all but the last leave it.
 *
 * Inputs: `input_ids` or the state; `position_ids` `[1, T]`; `last_row` int32 `[1]` = rows after
 * the call − 1; `total_rows` int32 `[1]`; `past_key.l`, `past_value.l`. With `score` also int64
 * `[1]` `sink_end`, `chunk_start`, `chunk_end`, `pass_start`, `pass_end`; `mask` float32
 * `[group · T, keys]`, 0 where a query sees a key and a large negative number elsewhere, the keys
 * being those of the prefix, the chunk and the pass; and `group_shape` int64 `[3]` = group, T,
 * keys.
 * Outputs: `present_key.l`, `present_value.l`; `residual_out` and `normalized_out`; with `score`
 * `scores.l` `[kvHeads, chunk]`; with `predict` and the last layer `predictions` int64 `[1, T]`.
 */
export function denseGraph(source: GraphSource, options: DenseGraphOptions): Uint8Array {
  const blocks = new DecoderBlocks(source);
  const { model } = blocks;
  const { layers } = source.config;
  const { from, to } = options.layers;
  const lastRow = model.input('last_row', 'int32', [1]);
  const totalRows = model.input('total_rows', 'int32', [1]);
  const scorer = options.score ? new ScoreOutputs(blocks) : undefined;
  let state = from === 0 ? blocks.embed() : blocks.resume();
  for (let layer = from; layer < to; layer++) {
    const projections = blocks.project(layer, state.normalized);
    const attention = denseAttention(blocks, layer, projections, [lastRow, totalRows]);
    scorer?.add(layer, projections.query);
    // Without predictions nothing after the last layer's keys and values is needed.
    if (layer + 1 === layers && !options.predict) break;
    state = blocks.finishLayer(layer, state.residual, attention);
  }
  if (to < layers) {
    blocks.leave(state);
  } else if (options.predict) {
    model.node('ArgMax', [blocks.head(state.normalized)], {
      attributes: { axis: -1, keepdims: 0 },
      outputs: [model.output('predictions', 'int64', [1, 'tokens'])],
    });
  }
  return model.encode();
}

function denseAttention(
  { model, config }: DecoderBlocks,
  layer: number,
  projections: Projections,
  rows: readonly [string, string],
): string {
  const dims = [1, config.kvHeads, 'capacity', config.headDim];
  const output = model.fresh('attention');
  model.node(
    'GroupQueryAttention',
    [
      projections.query,
      projections.key,
      projections.value,
      model.input(`past_key.${layer}`, 'float32', dims),
      model.input(`past_value.${layer}`, 'float32', dims),
      ...rows,
    ],
    {
      microsoft: true,
      attributes: { num_heads: config.queryHeads, kv_num_heads: config.kvHeads, do_rotary: 0 },
      outputs: [
        output,
        model.output(`present_key.${layer}`, 'float32', dims),
        model.output(`present_value.${layer}`, 'float32', dims),
      ],
    },
  );
  return output;
}

/**
 * KVzip's score (arXiv 2505.23416, section 3.2): softmax over the keys of the prefix, the chunk and
 * the pass itself, then per chunk key the maximum over queries and the group's query heads.
 */
class ScoreOutputs {
  readonly #blocks: DecoderBlocks;
  readonly #bounds: Readonly<Record<'sinkEnd' | 'start' | 'end' | 'passStart' | 'passEnd', string>>;
  readonly #mask: string;
  readonly #groupShape: string;
  readonly #chunkEndColumn: string;

  constructor(blocks: DecoderBlocks) {
    this.#blocks = blocks;
    const { model } = blocks;
    const bound = (name: string): string => model.input(name, 'int64', [1]);
    this.#bounds = {
      sinkEnd: bound('sink_end'),
      start: bound('chunk_start'),
      end: bound('chunk_end'),
      passStart: bound('pass_start'),
      passEnd: bound('pass_end'),
    };
    this.#mask = model.input('mask', 'float32', ['queries', 'keys']);
    this.#groupShape = model.input('group_shape', 'int64', [3]);
    const { sinkEnd, start, end } = this.#bounds;
    this.#chunkEndColumn = model.node('Add', [sinkEnd, model.node('Sub', [end, start])]);
  }

  add(layer: number, query: string): void {
    const { model, config } = this.#blocks;
    const { kvHeads, headDim } = config;
    const group = config.queryHeads / kvHeads;
    const { sinkEnd, start, end, passStart, passEnd } = this.#bounds;
    const present = `present_key.${layer}`;
    const rows = (from: string, to: string): string =>
      model.node('Slice', [present, from, to, model.integers(2)]);
    const keys = model.node(
      'Concat',
      [rows(model.integers(0), sinkEnd), rows(start, end), rows(passStart, passEnd)],
      { attributes: { axis: 2 } },
    );
    const keysByHead = this.#perHead(keys, model.integers(-1, headDim));
    const split = model.node('Reshape', [query, model.integers(0, 0, kvHeads, group, headDim)]);
    // [1, T, kvHeads, group, headDim] → [1, kvHeads, group, T, headDim]
    const grouped = model.node('Transpose', [split], { attributes: { perm: [0, 2, 3, 1, 4] } });
    const queriesByHead = this.#perHead(grouped, model.integers(-1, headDim));
    const maxima = queriesByHead.map((queries, head) =>
      this.#headMaxima(queries, keysByHead[head] as string),
    );
    const byHead = model.node('Concat', maxima, { attributes: { axis: 0 } });
    // Reducing first leaves one small row to slice instead of copying most of the matrix.
    model.node('Slice', [byHead, sinkEnd, this.#chunkEndColumn, model.integers(1)], {
      outputs: [model.output(`scores.${layer}`, 'float32', [kvHeads, 'chunk'])],
    });
  }

  /** The largest attention to each key of a KV head, `[1, keys]`. */
  #headMaxima(queries: string, keys: string): string {
    const { model, config } = this.#blocks;
    const group = config.queryHeads / config.kvHeads;
    // The mask is the product's addend: adding it later is one more pass over all logits.
    const logits = model.node('Gemm', [queries, keys, this.#mask], {
      attributes: { transB: 1, alpha: { float: 1 / Math.sqrt(config.headDim) } },
    });
    const attention = model.node('Softmax', [logits], { attributes: { axis: -1 } });
    const byQueryHead = model.node('Reshape', [attention, this.#groupShape]);
    const reduce = (value: string, axis: number, keepdims: 0 | 1): string =>
      model.node('ReduceMax', [value, model.integers(axis)], { attributes: { keepdims } });
    return group === 1 ? reduce(attention, 0, 1) : reduce(reduce(byQueryHead, 1, 0), 0, 1);
  }

  #perHead(value: string, shape: string): readonly string[] {
    const { model, config } = this.#blocks;
    const sizes = model.integers(...Array.from({ length: config.kvHeads }, () => 1));
    return model
      .split(value, 1, sizes, config.kvHeads)
      .map((part) => model.node('Reshape', [part, shape]));
  }
}
