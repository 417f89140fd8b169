import { DecoderBlocks, type GraphSource, type Projections } from './decoder-blocks.ts';

/** What is fixed in a graph: another number of slots takes another graph. */
export interface RaggedGraphOptions {
  /** Requests in one call, each over a cache of its own. */
  readonly slots: number;
}

/**
 * Tokens of one or more requests over compact caches in which every KV head has its own length:
 * with one slot this extends a context by a query, with several and a token each it is the decode
 * step. The CPU's attention takes exact lengths only with batch 1, so each head is a node of its
 * own.
 *
 * Inputs: `input_ids`, `position_ids` `[1, T]`, slot after slot; `last_rows` int32
 * `[slots · heads]` = each head's rows after the call − 1; `slot_tokens` int64 `[slots]` (left off
 * for one slot); `last_tokens` int64 `[slots]`, index of each slot's last token; per slot `s`,
 * layer `l` and KV head `h` `past_key.s.l.h` and `past_value.s.l.h` `[1, 1, capacity, headDim]`,
 * bound as present too: tokens are appended in place.
 * Outputs: `present_…` of the same, and `logits` float32 `[1, slots, vocabulary]`.
 */
export function raggedGraph(source: GraphSource, options: RaggedGraphOptions): Uint8Array {
  const blocks = new DecoderBlocks(source);
  const { model } = blocks;
  const { layers } = source.config;
  const attention = new RaggedAttention(blocks, options.slots);
  let state = blocks.embed();
  for (let layer = 0; layer < layers; layer++) {
    const projections = blocks.project(layer, state.normalized);
    state = blocks.finishLayer(layer, state, attention.add(layer, projections));
  }
  const lastTokens = model.input('last_tokens', 'int64', [options.slots]);
  const hidden = model.node('Gather', [state.normalized, lastTokens], { attributes: { axis: 1 } });
  const logits = model.output('logits', 'float32', [1, options.slots, source.config.vocabSize]);
  model.node('Identity', [blocks.head(hidden)], { outputs: [logits] });
  return model.encode();
}

class RaggedAttention {
  readonly #blocks: DecoderBlocks;
  readonly #slots: number;
  readonly #slotTokens: string;
  /** Per slot and head, the op's `seqlens_k` and `total_sequence_length`. */
  readonly #lastRows: readonly string[];
  readonly #totalRows: readonly string[];

  constructor(blocks: DecoderBlocks, slots: number) {
    this.#blocks = blocks;
    this.#slots = slots;
    const { model, config } = blocks;
    this.#slotTokens = slots > 1 ? model.input('slot_tokens', 'int64', [slots]) : '';
    const heads = slots * config.layers * config.kvHeads;
    const lastRows = model.input('last_rows', 'int32', [heads]);
    const one = model.node('Cast', [model.integers(1)], { attributes: { to: 6 } });
    const totalRows = model.node('Add', [lastRows, one]);
    const ones = model.integers(...Array.from({ length: heads }, () => 1));
    this.#lastRows = model.split(lastRows, 0, ones, heads);
    this.#totalRows = model.split(totalRows, 0, ones, heads);
  }

  /** Attention of a layer, `[1, T, queryHeads · headDim]`. */
  add(layer: number, { query, key, value }: Projections): string {
    const { model } = this.#blocks;
    const bySlot = (tensor: string): readonly string[] =>
      model.split(tensor, 1, this.#slotTokens, this.#slots);
    const [queries, keys, values] = [bySlot(query), bySlot(key), bySlot(value)];
    const outputs = queries.map((slotQuery, slot) =>
      this.#slotAttention(layer, slot, {
        query: slotQuery,
        key: keys[slot] as string,
        value: values[slot] as string,
      }),
    );
    return outputs.length === 1
      ? (outputs[0] as string)
      : model.node('Concat', outputs, { attributes: { axis: 1 } });
  }

  #slotAttention(layer: number, slot: number, { query, key, value }: Projections): string {
    const { model, config } = this.#blocks;
    const { kvHeads, headDim } = config;
    const group = config.queryHeads / kvHeads;
    const byHead = (tensor: string, width: number): readonly string[] => {
      const sizes = model.integers(...Array.from({ length: kvHeads }, () => width));
      return model.split(tensor, 2, sizes, kvHeads);
    };
    const [queries, keys, values] = [
      byHead(query, group * headDim),
      byHead(key, headDim),
      byHead(value, headDim),
    ];
    const outputs = queries.map((headQuery, head) => {
      const name = `${slot}.${layer}.${head}`;
      const dims = [1, 1, null, headDim];
      const index = (slot * config.layers + layer) * kvHeads + head;
      const output = model.fresh('attention');
      model.node(
        'GroupQueryAttention',
        [
          headQuery,
          keys[head] as string,
          values[head] as string,
          model.input(`past_key.${name}`, 'float32', dims),
          model.input(`past_value.${name}`, 'float32', dims),
          this.#lastRows[index] as string,
          this.#totalRows[index] as string,
        ],
        {
          microsoft: true,
          attributes: { num_heads: group, kv_num_heads: 1, do_rotary: 0 },
          outputs: [
            output,
            model.output(`present_key.${name}`, 'float32', dims),
            model.output(`present_value.${name}`, 'float32', dims),
          ],
        },
      );
      return output;
    });
    return outputs.length === 1
      ? (outputs[0] as string)
      : model.node('Concat', outputs, { attributes: { axis: 2 } });
  }
}
