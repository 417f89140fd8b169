import { defined } from '../../core/assert.ts';
import type { Closeable } from '../../core/closeable.ts';
import type { ModelConfig } from '../../model/config.ts';
import { firstTokens, type ForwardSlot } from '../runtime.ts';
import { ContextAttention } from './context-attention.ts';
import type { OrtContextView } from './context-cache.ts';
import { QueryInputs, type QueryShape } from './query-inputs.ts';
import type { RopeTensors } from './rope-tensors.ts';
import type { OrtBinding, OrtEnvironment, OrtSession } from './session.ts';
import type { OrtTail, TailArena } from './tail-arena.ts';

/** A slot whose context and tail are known to be of this runtime. */
export interface OwnSlot extends ForwardSlot {
  readonly context: OrtContextView;
  readonly tail: OrtTail;
}

/** What a query call computes with. */
export interface QueryCallOptions {
  readonly config: ModelConfig;
  readonly arena: TailArena;
  readonly rope: RopeTensors;
  /** The graphs of all stages (`queryGraph`). */
  readonly stages: readonly OrtSession[];
  /** The graph of `contextGraph`. */
  readonly attention: OrtSession;
}

/**
 * Softmax sums in blocks of this many columns or fewer: with a multiple of it, columns that are
 * masked at the end do not change the order in which the others are summed.
 */
const columnStep = 64;

/**
 * Tokens of requests on any contexts, through all layers. Binding some hundred tensors costs about
 * as much as a small model's step, so only what changed is bound anew.
 */
export class QueryCall implements Closeable {
  readonly #environment: OrtEnvironment;
  readonly #options: QueryCallOptions;
  readonly #stages: readonly OrtBinding[];
  readonly #contexts = new Map<OrtContextView, ContextAttention>();
  #boundTails = '';
  #inputs: QueryInputs | undefined;

  constructor(environment: OrtEnvironment, options: QueryCallOptions) {
    this.#environment = environment;
    this.#options = options;
    this.#stages = options.stages.map((session) => session.bind());
    for (const binding of this.#stages.slice(0, -1)) {
      for (const [name, tensor] of Object.entries(options.rope.inputs)) {
        binding.input(name, tensor);
      }
    }
  }

  /**
   * One slot with any tokens, or several that the attention operator takes together, all with a
   * token behind others or all without a tail yet. Results in the order of the slots.
   */
  run(slots: readonly OwnSlot[]): readonly Float32Array[] {
    const longest = Math.max(...slots.map(({ ids }) => ids.length));
    const begins = slots.every(({ tail }) => tail.length === 0);
    // The first tokens of a tail are padded, alone too: the same products whoever else begins.
    const placesEach = begins ? Math.ceil(longest / firstTokens) * firstTokens : longest;
    const rows = Math.max(...slots.map(({ tail }) => tail.length)) + placesEach;
    const tails = slots.map(({ tail }) => tail);
    const arrangement = this.#options.arena.arrange(tails, rows);
    const requests = arrangement.tails.map((tail) => defined(slots[tails.indexOf(tail)], 'a slot'));
    this.#bindTails(arrangement.first, tails.length);
    const inputs = this.#inputsFor({
      requests: slots.length,
      tokens: slots.reduce((sum, { ids }) => sum + ids.length, 0),
      placesEach,
      tailRows: Math.ceil(rows / columnStep) * columnStep,
    });
    const contexts = byContext(requests);
    inputs.fill(requests, contexts.flat());
    this.#compute(this.#bindContexts(contexts, inputs));
    const logits = tails.map((tail) => inputs.logitsOf(arrangement.tails.indexOf(tail)));
    for (const { tail, ids } of slots) tail.append(ids.length);
    return logits;
  }

  close(): void {
    for (const binding of this.#stages) binding.close();
    for (const context of this.#contexts.values()) context.close();
    this.#contexts.clear();
    this.#inputs?.close();
  }

  #compute(contexts: readonly ContextAttention[]): void {
    for (const [stage, binding] of this.#stages.entries()) {
      binding.run();
      if (stage === this.#options.config.layers) break;
      for (const context of contexts) context.run(stage);
    }
  }

  #bindTails(first: number, count: number): void {
    const { arena } = this.#options;
    const key = `${arena.generation}:${first}+${count}`;
    if (key === this.#boundTails) return;
    const { keys, values } = arena.tensors(first, count);
    for (const [name, tensors] of [
      ['tail_key', keys],
      ['tail_value', values],
    ] as const) {
      for (const [layer, tensor] of tensors.entries()) {
        const binding = defined(this.#stages[layer], `layer ${layer}`);
        binding.input(name, tensor);
        binding.output(`${name}_out`, tensor);
      }
    }
    this.#boundTails = key;
  }

  #bindContexts(
    contexts: readonly (readonly OwnSlot[])[],
    inputs: QueryInputs,
  ): readonly ContextAttention[] {
    let first = 0;
    return contexts.map((slots) => {
      const { context } = defined(slots[0], 'a slot');
      const count = slots.reduce((sum, { ids }) => sum + ids.length, 0);
      const attention = this.#attentionOver(context);
      attention.bind(inputs.part({ first, count }));
      first += count;
      return attention;
    });
  }

  #attentionOver(view: OrtContextView): ContextAttention {
    let attention = this.#contexts.get(view);
    if (attention === undefined) {
      const { attention: session, config } = this.#options;
      const made = new ContextAttention(this.#environment, { session, view, config });
      this.#contexts.set(view, made);
      view.whenClosed(() => {
        this.#contexts.delete(view);
        made.close();
      });
      attention = made;
    }
    return attention;
  }

  #inputsFor(shape: QueryShape): QueryInputs {
    if (this.#inputs?.fits(shape) !== true) {
      this.#inputs?.close();
      this.#inputs = undefined;
      this.#inputs = new QueryInputs(this.#environment, shape, this.#options.config);
      this.#inputs.bind(this.#stages);
    }
    return this.#inputs;
  }
}

/** The slots of each context. */
function byContext(slots: readonly OwnSlot[]): readonly (readonly OwnSlot[])[] {
  const contexts = new Map<OrtContextView, OwnSlot[]>();
  for (const slot of slots) {
    const others = contexts.get(slot.context);
    if (others === undefined) contexts.set(slot.context, [slot]);
    else others.push(slot);
  }
  return [...contexts.values()];
}
