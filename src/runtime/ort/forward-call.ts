import { assert, defined } from '../../core/assert.ts';
import type { ModelConfig } from '../../model/config.ts';
import type { RaggedSlot } from '../runtime.ts';
import type { OrtRaggedCache } from './ragged-cache.ts';
import type { OrtBinding, OrtEnvironment, OrtSession } from './session.ts';
import type { OrtTensor } from './tensor.ts';

/** A slot whose cache is known to be of this runtime. */
export interface OwnSlot extends RaggedSlot {
  readonly cache: OrtRaggedCache;
}

/** The memory a binding points at: a cache replaces it with each generation. */
interface BoundSlot {
  readonly cache: OrtRaggedCache;
  readonly generation: number;
  readonly tokens: number;
}

/**
 * A bound call of a ragged graph. Binding some hundred tensors costs about as much as a small
 * model's step, so a decode loop keeps one and only rewrites the small inputs.
 */
export class ForwardCall {
  readonly #binding: OrtBinding;
  readonly #bound: readonly BoundSlot[];
  readonly #vocabSize: number;
  readonly #small: readonly OrtTensor[];
  readonly #ids: BigInt64Array;
  readonly #positions: BigInt64Array;
  readonly #lastRows: Int32Array;
  readonly #logits: Float32Array;

  constructor(
    environment: OrtEnvironment,
    session: OrtSession,
    { slots, config }: { readonly slots: readonly OwnSlot[]; readonly config: ModelConfig },
  ) {
    this.#binding = session.bind();
    this.#vocabSize = config.vocabSize;
    this.#bound = slots.map(({ cache, ids }) => ({
      cache,
      generation: cache.generation,
      tokens: ids.length,
    }));
    const tokens = slots.reduce((sum, slot) => sum + slot.ids.length, 0);
    const heads = slots.length * config.layers * config.kvHeads;
    this.#ids = new BigInt64Array(tokens);
    this.#positions = new BigInt64Array(tokens);
    this.#lastRows = new Int32Array(heads);
    this.#logits = new Float32Array(slots.length * config.vocabSize);
    const counts = slots.map((slot) => slot.ids.length);
    let end = 0;
    const lastTokens = counts.map((count) => (end += count) - 1);
    const inputs: Record<string, OrtTensor> = {
      input_ids: environment.tensor(this.#ids, [1, tokens]),
      position_ids: environment.tensor(this.#positions, [1, tokens]),
      last_rows: environment.tensor(this.#lastRows, [heads]),
      last_tokens: environment.tensor(BigInt64Array.from(lastTokens, BigInt), [slots.length]),
    };
    if (slots.length > 1) {
      const slotTokens = BigInt64Array.from(counts, BigInt);
      inputs['slot_tokens'] = environment.tensor(slotTokens, [slots.length]);
    }
    const logits = environment.tensor(this.#logits, [1, slots.length, config.vocabSize]);
    for (const [name, tensor] of Object.entries(inputs)) this.#binding.input(name, tensor);
    this.#binding.output('logits', logits);
    this.#small = [...Object.values(inputs), logits];
    for (const [slot, { cache }] of slots.entries()) this.#bindCache(slot, cache, config);
  }

  /** Whether the same caches would run with the same token counts. */
  fits(slots: readonly OwnSlot[]): boolean {
    return (
      slots.length === this.#bound.length &&
      slots.every(({ cache, ids }, slot) => {
        const bound = this.#bound[slot];
        return (
          bound?.cache === cache &&
          bound.generation === cache.generation &&
          bound.tokens === ids.length
        );
      })
    );
  }

  run(slots: readonly OwnSlot[]): readonly Float32Array[] {
    let token = 0;
    let head = 0;
    for (const { cache, ids, startPosition } of slots) {
      const tail = cache.tailLength + ids.length;
      assert(tail <= cache.tailCapacity, `${tail} tail rows exceed ${cache.tailCapacity}`);
      for (const [i, id] of ids.entries()) {
        this.#ids[token] = BigInt(id);
        this.#positions[token++] = BigInt(startPosition + i);
      }
      for (const length of cache.lengths) this.#lastRows[head++] = length + tail - 1;
    }
    this.#binding.run();
    for (const { cache, ids } of slots) cache.append(ids.length);
    return slots.map((_, slot) =>
      this.#logits.slice(slot * this.#vocabSize, (slot + 1) * this.#vocabSize),
    );
  }

  close(): void {
    this.#binding.close();
    for (const tensor of this.#small) tensor.close();
  }

  #bindCache(slot: number, cache: OrtRaggedCache, { layers, kvHeads }: ModelConfig): void {
    for (let layer = 0; layer < layers; layer++) {
      for (let kvHead = 0; kvHead < kvHeads; kvHead++) {
        const head = layer * kvHeads + kvHead;
        const name = `${slot}.${layer}.${kvHead}`;
        const key = defined(cache.keyTensors[head], `head ${head}`);
        const value = defined(cache.valueTensors[head], `head ${head}`);
        this.#binding.input(`past_key.${name}`, key);
        this.#binding.output(`present_key.${name}`, key);
        this.#binding.input(`past_value.${name}`, value);
        this.#binding.output(`present_value.${name}`, value);
      }
    }
  }
}
