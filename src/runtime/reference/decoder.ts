import { assert, defined } from '../../core/assert.ts';
import type { ModelConfig } from '../../model/config.ts';
import { ropeTables } from '../../model/rope.ts';
import type { RopeTables } from '../../model/rope.ts';
import { addInPlace, applyLinear, dot, rmsNorm, rotate, softmax, swiGlu } from './arithmetic.ts';
import type { DecoderCache, HeadRows } from './caches.ts';
import { loadWeights } from './weights.ts';
import type { DecoderWeights, LayerWeights, ReferenceModel } from './weights.ts';

/** Tokens of one forward call. */
export interface TokenRun {
  readonly ids: Int32Array;
  /** RoPE position of the first token. */
  readonly startPosition: number;
  readonly cache: DecoderCache;
  /** Sees a layer's post-RoPE queries `[T, queryHeads, headDim]` once its keys are in the cache. */
  readonly observe?: (layer: number, queries: Float64Array) => void;
}

/** A Llama decoder as Hugging Face's checkpoints mean it, written out in float64. */
export interface Decoder {
  /** Appends the tokens to the cache and returns the hidden states `[T, hiddenSize]`. */
  run(tokens: TokenRun): Float64Array;
  /** Final norm and LM head over hidden states: `[T, hiddenSize]` → `[T, vocabSize]`. */
  logits(hidden: Float64Array): Float64Array;
}

/** @throws ReadonceError as `loadWeights` does. */
export function createDecoder(model: ReferenceModel): Decoder {
  const { config } = model;
  const weights = loadWeights(model);
  const rope = ropeTables(config);
  return {
    run: (tokens) => {
      checkRun(tokens, config);
      const hidden = embed(tokens.ids, weights, config);
      weights.layers.forEach((layer, index) => {
        runLayer(hidden, layer, { config, rope, index, tokens });
      });
      tokens.cache.tail.commit(tokens.ids.length);
      return hidden;
    },
    logits: (hidden) =>
      applyLinear(weights.head, rmsNorm(hidden, weights.finalNorm, config.rmsEpsilon)),
  };
}

function checkRun({ ids, startPosition, cache }: TokenRun, config: ModelConfig): void {
  assert(ids.length > 0, 'expected at least one token');
  cache.tail.assertRoom(ids.length);
  const end = startPosition + ids.length;
  assert(
    startPosition >= 0 && end <= config.contextLength,
    `positions [${startPosition}, ${end}) exceed the window of ${config.contextLength}`,
  );
  for (const id of ids) {
    assert(id >= 0 && id < config.vocabSize, `token ${id} is not in the vocabulary`);
  }
}

function embed(
  ids: Int32Array,
  weights: DecoderWeights,
  { hiddenSize }: ModelConfig,
): Float64Array {
  const hidden = new Float64Array(ids.length * hiddenSize);
  ids.forEach((id, token) => {
    const row = weights.embedding.subarray(id * hiddenSize, (id + 1) * hiddenSize);
    hidden.set(row, token * hiddenSize);
  });
  return hidden;
}

interface LayerRun {
  readonly config: ModelConfig;
  readonly rope: RopeTables;
  readonly index: number;
  readonly tokens: TokenRun;
}

/** One layer: attention and feed-forward, each added to `hidden` in place. */
function runLayer(hidden: Float64Array, layer: LayerWeights, run: LayerRun): void {
  const { rmsEpsilon } = run.config;
  const attentionInput = rmsNorm(hidden, layer.attentionNorm, rmsEpsilon);
  addInPlace(hidden, applyLinear(layer.output, attention(attentionInput, layer, run)));
  const feedForwardInput = rmsNorm(hidden, layer.feedForwardNorm, rmsEpsilon);
  const gate = applyLinear(layer.gate, feedForwardInput);
  const up = applyLinear(layer.up, feedForwardInput);
  addInPlace(hidden, applyLinear(layer.down, swiGlu(gate, up)));
}

/** Writes the tokens' pairs into the cache; returns the outputs, `[T, queryHeads, headDim]`. */
function attention(input: Float64Array, layer: LayerWeights, run: LayerRun): Float64Array {
  const { config, index, tokens } = run;
  const { headDim, kvHeads, queryHeads } = config;
  const { cache, startPosition } = tokens;
  const queries = applyLinear(layer.query, input);
  const keys = applyLinear(layer.key, input);
  const values = applyLinear(layer.value, input);
  rotate(queries, run.rope, { width: queryHeads * headDim, headDim, startPosition });
  rotate(keys, run.rope, { width: kvHeads * headDim, headDim, startPosition });
  for (let token = 0; token < tokens.ids.length; token++) {
    for (let kvHead = 0; kvHead < kvHeads; kvHead++) {
      const start = (token * kvHeads + kvHead) * headDim;
      cache.tail.write(index * kvHeads + kvHead, token, {
        key: keys.subarray(start, start + headDim),
        value: values.subarray(start, start + headDim),
      });
    }
  }
  tokens.observe?.(index, queries);

  const result = new Float64Array(queries.length);
  const group = queryHeads / kvHeads;
  for (let kvHead = 0; kvHead < kvHeads; kvHead++) {
    const rows = cache.rows(index * kvHeads + kvHead);
    for (let token = 0; token < tokens.ids.length; token++) {
      const visible = rows.contextRows + cache.tail.length + token + 1;
      for (let member = 0; member < group; member++) {
        const start = (token * queryHeads + kvHead * group + member) * headDim;
        attend(queries.subarray(start, start + headDim), rows, visible).forEach((value, i) => {
          result[start + i] = value;
        });
      }
    }
  }
  return result;
}

/** Attention of one query `[headDim]` over the first `visible` rows. */
function attend(query: Float64Array, rows: HeadRows, visible: number): Float64Array {
  const headDim = query.length;
  const weights = new Float64Array(visible);
  for (let row = 0; row < visible; row++) {
    weights[row] = dot(query, 0, rows.keys, row * headDim, headDim) / Math.sqrt(headDim);
  }
  softmax(weights, visible);
  const result = new Float64Array(headDim);
  for (let row = 0; row < visible; row++) {
    const weight = defined(weights[row], 'an attention weight');
    for (let i = 0; i < headDim; i++) {
      result[i] = (result[i] as number) + weight * (rows.values[row * headDim + i] as number);
    }
  }
  return result;
}
