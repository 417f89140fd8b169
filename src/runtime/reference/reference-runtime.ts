import { argmax } from '../../core/argmax.ts';
import { assert } from '../../core/assert.ts';
import { pairBytes } from '../../core/kv-layout.ts';
import { kvLayout } from '../../model/config.ts';
import { floatLogits } from '../float-logits.ts';
import { appendTogether, checkTogether } from '../forward-slots.ts';
import { hostPoolBytes } from '../host-pool-bytes.ts';
import type { DenseCache, ForwardSlot, Logits, Runtime, ScoreSlice } from '../runtime.ts';
import {
  ReferenceContextCache,
  ReferenceContextView,
  ReferenceDenseCache,
  ReferenceTail,
  type HeadRows,
} from './caches.ts';
import { createDecoder } from './decoder.ts';
import type { Decoder } from './decoder.ts';
import { checkScoreSlice } from '../score-slice.ts';
import { raiseScores } from './score.ts';
import type { ReferenceModel } from './weights.ts';

export type { ReferenceModel } from './weights.ts';

/** How much of the model is run. */
export interface ReferenceOptions {
  /**
   * Run only the first layers, final norm and LM head behind them, so that a model too large to run
   * whole in float64 can be checked in part. Default: all.
   */
  readonly layers?: number;
}

/**
 * The oracle: the decoder in plain TypeScript and float64, slow and obvious. Results are handed out
 * as float32. About 8 bytes of memory a parameter and 10^9 multiplications a second.
 * @throws ReadonceError `invalid_argument` when tensors are missing or of another size than the
 * config says.
 */
export function createReferenceRuntime(
  model: ReferenceModel,
  options: ReferenceOptions = {},
): Runtime {
  const layers = options.layers ?? model.config.layers;
  assert(
    Number.isInteger(layers) && layers >= 1 && layers <= model.config.layers,
    `expected 1 to ${model.config.layers} layers but got ${layers}`,
  );
  const config = { ...model.config, layers };
  const layout = kvLayout(config);
  const decoder = createDecoder({ config, tensors: model.tensors });
  return {
    name: 'reference',
    config,
    layout,
    memory: 'host',
    // Of a context's rows. Tails are float64.
    rowBytes: pairBytes(layout, 1, Float32Array.BYTES_PER_ELEMENT),
    sliceTokens: 256,
    defaultPoolBytes: hostPoolBytes,
    // Nothing to prepare: weights were read when the runtime was made.
    warm: () => {},
    createDense: (capacity) => new ReferenceDenseCache(layout, capacity),
    createContext: (lengths) => new ReferenceContextCache(layout, lengths),
    contextOf: (cache) => {
      const context = ReferenceContextCache.of(layout, ownDense(cache));
      cache.close();
      return context;
    },
    createTail: () => new ReferenceTail(layout),
    prefill: (cache, ids) => {
      const tokens = { ids, startPosition: cache.length, cache: ownDense(cache) };
      return [() => void decoder.run(tokens)];
    },
    score: (cache, slice) => {
      checkScoreSlice(slice, layout, cache.length);
      const dense = ownDense(cache);
      const tokens = {
        ids: slice.ids,
        startPosition: cache.length,
        cache: dense,
        observe: (layer: number, queries: Float64Array) => {
          raiseScores(queries, { layer, layout, slice, tail: dense.tail });
        },
      };
      const run = (): void => {
        const hidden = decoder.run(tokens);
        slice.predictions?.set(predictions(decoder, hidden, slice));
      };
      return [run];
    },
    forward: (slots) => {
      checkTogether(slots);
      return appendTogether(slots, () => slots.map((slot) => forwardSlot(decoder, slot)));
    },
    close: () => {},
  };
}

function predictions(decoder: Decoder, hidden: Float64Array, { ids }: ScoreSlice): Int32Array {
  const logits = decoder.logits(hidden);
  const vocabSize = logits.length / ids.length;
  return ids.map((_, token) => argmax(logits, token * vocabSize, (token + 1) * vocabSize));
}

function forwardSlot(decoder: Decoder, slot: ForwardSlot): Logits {
  const { ids, startPosition, context, tail } = slot;
  assert(context instanceof ReferenceContextView, 'expected a context of the reference runtime');
  assert(tail instanceof ReferenceTail, 'expected a tail of the reference runtime');
  tail.rows.grow(ids.length);
  const rows = (head: number): HeadRows => context.rows(head, tail.rows);
  const hidden = decoder.run({ ids, startPosition, cache: { tail: tail.rows, rows } });
  const hiddenSize = hidden.length / ids.length;
  return floatLogits(new Float32Array(decoder.logits(hidden.subarray(-hiddenSize))));
}

function ownDense(cache: DenseCache): ReferenceDenseCache {
  assert(cache instanceof ReferenceDenseCache, 'expected a cache of the reference runtime');
  return cache;
}
