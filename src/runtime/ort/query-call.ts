import { defined } from '../../core/assert.ts';
import type { ModelConfig } from '../../model/config.ts';
import { firstTokens, type ForwardSlot } from '../runtime.ts';
import type { OrtContextView } from './context-cache.ts';
import type { LayerRange } from './dense-call.ts';
import type { OrtBinding, OrtEnvironment, OrtSession } from './session.ts';
import type { OrtTail, TailArena } from './tail-arena.ts';
import type { OrtTensor } from './tensor.ts';

/** A slot whose context and tail are known to be of this runtime. */
export interface OwnSlot extends ForwardSlot {
  readonly context: OrtContextView;
  readonly tail: OrtTail;
}

/** The graph of some layers. */
export interface QueryStage {
  readonly session: OrtSession;
  readonly layers: LayerRange;
}

interface Stage {
  readonly binding: OrtBinding;
  readonly layers: LayerRange;
}

/** What the shapes of the small inputs depend on. */
interface CallShape {
  readonly requests: number;
  /** Of all requests. */
  readonly tokens: number;
  /** Tokens that the tails' attention has room for in each request. */
  readonly placesEach: number;
  /** Columns of the tails' mask. */
  readonly tailRows: number;
}

/**
 * Softmax sums in blocks of this many columns or fewer: with a multiple of it, columns that are
 * masked at the end do not change the order in which the others are summed.
 */
const columnStep = 64;

/** Added to the logits of heads without rows. */
const hidden = -1e30;

/**
 * A query graph for some number of contexts, with what is bound to it. Binding some hundred tensors
 * costs about as much as a small model's step, so only what changed is bound anew.
 */
export class QueryCall {
  readonly #environment: OrtEnvironment;
  readonly #config: ModelConfig;
  readonly #arena: TailArena;
  readonly #stages: readonly Stage[];
  /** Contexts that the graph has room for. */
  readonly #contexts: number;
  readonly #boundViews: OrtContextView[] = [];
  #boundTails = '';
  #inputs: CallInputs | undefined;

  constructor(
    environment: OrtEnvironment,
    options: {
      /** One after another, all layers. */
      readonly stages: readonly QueryStage[];
      readonly config: ModelConfig;
      readonly arena: TailArena;
      readonly contexts: number;
    },
  ) {
    this.#environment = environment;
    this.#config = options.config;
    this.#arena = options.arena;
    this.#contexts = options.contexts;
    this.#stages = options.stages.map(({ session, layers }) => ({
      layers,
      binding: session.bind(),
    }));
  }

  /**
   * Slots of at most as many contexts as the graph has: one with any tokens, or several that the
   * attention operator takes together, all with a token behind others or all without a tail yet.
   */
  run(slots: readonly OwnSlot[]): readonly Float32Array[] {
    const longest = Math.max(...slots.map(({ ids }) => ids.length));
    const begins = slots.every(({ tail }) => tail.length === 0);
    // The first tokens of a tail are padded, alone too: the same products whoever else begins.
    const placesEach = begins ? Math.ceil(longest / firstTokens) * firstTokens : longest;
    const rows = Math.max(...slots.map(({ tail }) => tail.length)) + placesEach;
    const tails = slots.map(({ tail }) => tail);
    const arrangement = this.#arena.arrange(tails, rows);
    const ordered = arrangement.tails.map((tail) => defined(slots[tails.indexOf(tail)], 'a slot'));
    this.#bindTails(arrangement.first, tails.length);
    const views = [...new Set(ordered.map(({ context }) => context))];
    this.#bindContexts(views);
    const inputs = this.#inputsFor({
      requests: slots.length,
      tokens: slots.reduce((sum, { ids }) => sum + ids.length, 0),
      placesEach,
      tailRows: Math.ceil(rows / columnStep) * columnStep,
    });
    inputs.fill(ordered, views);
    for (const { binding } of this.#stages) binding.run();
    for (const { tail, ids } of slots) tail.append(ids.length);
    return tails.map((tail) => inputs.logitsOf(arrangement.tails.indexOf(tail)));
  }

  close(): void {
    for (const { binding } of this.#stages) binding.close();
    this.#inputs?.close();
  }

  #bindTails(first: number, count: number): void {
    const key = `${this.#arena.generation}:${first}+${count}`;
    if (key === this.#boundTails) return;
    const { keys, values } = this.#arena.tensors(first, count);
    for (const [name, tensors] of [
      ['tail_key', keys],
      ['tail_value', values],
    ] as const) {
      for (const [layer, tensor] of tensors.entries()) {
        const binding = this.#bindingOf(layer);
        binding.input(`${name}.${layer}`, tensor);
        binding.output(`${name}_out.${layer}`, tensor);
      }
    }
    this.#boundTails = key;
  }

  /** Places that are left over repeat the last context, with no queries on it. */
  #bindContexts(views: readonly OrtContextView[]): void {
    const { layers, kvHeads } = this.#config;
    for (let context = 0; context < this.#contexts; context++) {
      const view = defined(views[Math.min(context, views.length - 1)], 'a context');
      if (this.#boundViews[context] === view) continue;
      for (let head = 0; head < layers * kvHeads; head++) {
        const layer = Math.floor(head / kvHeads);
        const name = `${context}.${layer}.${head % kvHeads}`;
        const binding = this.#bindingOf(layer);
        const [key, value] = [view.keyTensors[head], view.valueTensors[head]];
        binding.input(`context_key.${name}`, defined(key, `head ${head}`));
        binding.input(`context_value.${name}`, defined(value, `head ${head}`));
      }
      this.#boundViews[context] = view;
    }
  }

  #bindingOf(layer: number): OrtBinding {
    const stage = this.#stages.find(({ layers }) => layer >= layers.from && layer < layers.to);
    return defined(stage, `the stage of layer ${layer}`).binding;
  }

  #inputsFor(shape: CallShape): CallInputs {
    if (this.#inputs?.fits(shape) !== true) {
      this.#inputs?.close();
      this.#inputs = new CallInputs(this.#environment, shape, {
        config: this.#config,
        contexts: this.#contexts,
      });
      this.#inputs.bind(this.#stages.map(({ binding }) => binding));
    }
    return this.#inputs;
  }
}

/** The residual stream and its normalised copy, `[1, N, hidden]`. */
interface LayerTensors {
  readonly residual: OrtTensor;
  readonly normalized: OrtTensor;
}

/** The small tensors of a call: rewritten for each, replaced when a shape changes. */
class CallInputs {
  readonly #shape: CallShape;
  readonly #config: ModelConfig;
  readonly #ids: BigInt64Array;
  readonly #positions: BigInt64Array;
  readonly #tailTokens: BigInt64Array;
  readonly #tokenPlaces: BigInt64Array;
  readonly #lastRows: Int32Array;
  readonly #lastTokens: BigInt64Array;
  readonly #mask: Uint8Array;
  readonly #absent: Float32Array;
  readonly #contextOrder: BigInt64Array;
  readonly #requestOrder: BigInt64Array;
  readonly #contextQueries: BigInt64Array;
  readonly #logits: Float32Array;
  readonly #tensors: Readonly<Record<string, OrtTensor>>;
  readonly #logitsTensor: OrtTensor;
  readonly #states: readonly LayerTensors[];

  constructor(
    environment: OrtEnvironment,
    shape: CallShape,
    { config, contexts }: { readonly config: ModelConfig; readonly contexts: number },
  ) {
    const { requests, tokens, placesEach, tailRows } = shape;
    const places = requests * placesEach;
    this.#shape = shape;
    this.#config = config;
    this.#ids = new BigInt64Array(tokens);
    this.#positions = new BigInt64Array(tokens);
    this.#tailTokens = new BigInt64Array(places);
    this.#tokenPlaces = new BigInt64Array(tokens);
    this.#lastRows = new Int32Array(requests);
    this.#lastTokens = new BigInt64Array(requests);
    this.#mask = new Uint8Array(places * tailRows);
    this.#absent = new Float32Array(config.layers * tokens * config.queryHeads);
    this.#contextOrder = new BigInt64Array(tokens);
    this.#requestOrder = new BigInt64Array(tokens);
    this.#contextQueries = new BigInt64Array(contexts);
    this.#logits = new Float32Array(requests * config.vocabSize);
    const tailShape = BigInt64Array.of(BigInt(requests), BigInt(placesEach), -1n);
    this.#tensors = {
      input_ids: environment.tensor(this.#ids, [1, tokens]),
      position_ids: environment.tensor(this.#positions, [1, tokens]),
      tail_shape: environment.tensor(tailShape, [3]),
      tail_tokens: environment.tensor(this.#tailTokens, [places]),
      token_places: environment.tensor(this.#tokenPlaces, [tokens]),
      tail_last_rows: environment.tensor(this.#lastRows, [requests]),
      tail_rows: environment.tensor(Int32Array.of(tailRows), [1]),
      tail_mask: environment.tensor(this.#mask, [requests, 1, placesEach, tailRows]),
      absent: environment.tensor(this.#absent, [config.layers, tokens, config.queryHeads]),
      last_tokens: environment.tensor(this.#lastTokens, [requests]),
      ...(contexts > 1 && {
        context_order: environment.tensor(this.#contextOrder, [tokens]),
        request_order: environment.tensor(this.#requestOrder, [tokens]),
        context_queries: environment.tensor(this.#contextQueries, [contexts]),
      }),
    };
    this.#logitsTensor = environment.tensor(this.#logits, [1, requests, config.vocabSize]);
    const hiddenTensor = (): OrtTensor =>
      environment.tensor(new Float32Array(tokens * config.hiddenSize), [
        1,
        tokens,
        config.hiddenSize,
      ]);
    this.#states = [0, 1].map(() => ({ residual: hiddenTensor(), normalized: hiddenTensor() }));
  }

  fits(shape: CallShape): boolean {
    return (
      this.#shape.requests === shape.requests &&
      this.#shape.tokens === shape.tokens &&
      this.#shape.placesEach === shape.placesEach &&
      this.#shape.tailRows === shape.tailRows
    );
  }

  /** Binds the stages, each to the state that the one before leaves. */
  bind(stages: readonly OrtBinding[]): void {
    for (const [stage, binding] of stages.entries()) {
      const isLast = stage === stages.length - 1;
      for (const [name, tensor] of Object.entries(this.#tensors)) {
        const isThere = (name !== 'input_ids' || stage === 0) && (name !== 'last_tokens' || isLast);
        if (isThere) binding.input(name, tensor);
      }
      for (const name of ['residual', 'normalized'] as const) {
        if (stage > 0) binding.input(name, this.#state(stage - 1)[name]);
        if (!isLast) binding.output(`${name}_out`, this.#state(stage)[name]);
      }
      if (isLast) binding.output('logits', this.#logitsTensor);
    }
  }

  fill(slots: readonly OwnSlot[], views: readonly OrtContextView[]): void {
    const { placesEach, tailRows } = this.#shape;
    let token = 0;
    this.#tailTokens.fill(0n);
    this.#mask.fill(0);
    for (const [request, { ids, startPosition, tail }] of slots.entries()) {
      this.#lastRows[request] = tail.length + placesEach - 1;
      for (const [i, id] of ids.entries()) {
        const place = request * placesEach + i;
        this.#ids[token] = BigInt(id);
        this.#positions[token] = BigInt(startPosition + i);
        this.#tailTokens[place] = BigInt(token);
        this.#tokenPlaces[token] = BigInt(place);
        this.#mask.fill(1, place * tailRows, place * tailRows + tail.length + i + 1);
        token++;
      }
      this.#lastTokens[request] = BigInt(token - 1);
    }
    this.#fillOrder(slots, views);
    this.#fillAbsent(slots);
  }

  /** What a stage leaves: two are in use at a time. */
  #state(stage: number): LayerTensors {
    return defined(this.#states[stage % this.#states.length], 'the state of a stage');
  }

  /** The logits of a request, copied. */
  logitsOf(request: number): Float32Array {
    const { vocabSize } = this.#config;
    return this.#logits.slice(request * vocabSize, (request + 1) * vocabSize);
  }

  close(): void {
    for (const tensor of Object.values(this.#tensors)) tensor.close();
    this.#logitsTensor.close();
    for (const { residual, normalized } of this.#states) {
      residual.close();
      normalized.close();
    }
  }

  #fillOrder(slots: readonly OwnSlot[], views: readonly OrtContextView[]): void {
    const group = this.#config.queryHeads / this.#config.kvHeads;
    let sorted = 0;
    this.#contextQueries.fill(0n);
    for (const [context, view] of views.entries()) {
      const before = sorted;
      let token = 0;
      for (const { context: own, ids } of slots) {
        for (let i = 0; i < ids.length; i++, token++) {
          if (own !== view) continue;
          this.#contextOrder[sorted] = BigInt(token);
          this.#requestOrder[token] = BigInt(sorted++);
        }
      }
      this.#contextQueries[context] = BigInt((sorted - before) * group);
    }
  }

  #fillAbsent(slots: readonly OwnSlot[]): void {
    const { layers, kvHeads, queryHeads } = this.#config;
    const group = queryHeads / kvHeads;
    this.#absent.fill(0);
    let first = 0;
    for (const { context, ids } of slots) {
      for (let head = 0; context.hasAbsentHeads && head < layers * kvHeads; head++) {
        if (context.lengths[head] !== 0) continue;
        const layer = Math.floor(head / kvHeads);
        for (let i = 0; i < ids.length; i++) {
          const row = layer * this.#shape.tokens + first + i;
          const start = row * queryHeads + (head % kvHeads) * group;
          this.#absent.fill(hidden, start, start + group);
        }
      }
      first += ids.length;
    }
  }
}
