import type { ModelConfig } from '../../model/config.ts';
import type { ForwardSlot } from '../runtime.ts';
import type { ContextPart } from './context-attention.ts';
import type { OrtBinding, OrtEnvironment } from './session.ts';
import type { OrtTensor, TensorData } from './tensor.ts';

/** What the shapes of a query call's tensors depend on. */
export interface QueryShape {
  readonly requests: number;
  /** Of all requests. */
  readonly tokens: number;
  /** Tokens that the tails' attention has room for in each request. */
  readonly placesEach: number;
  /** Columns of the tails' mask. */
  readonly tailRows: number;
}

/** Some requests' tokens, one behind another, from the token `first` on. */
export interface TokenRun {
  readonly first: number;
  readonly count: number;
}

/** The tensors that a query call's graphs have in common: replaced when a shape changes. */
export class QueryInputs {
  readonly #environment: OrtEnvironment;
  readonly #shape: QueryShape;
  readonly #config: ModelConfig;
  readonly #ids: BigInt64Array;
  readonly #positions: BigInt64Array;
  readonly #tailTokens: BigInt64Array;
  readonly #tokenPlaces: BigInt64Array;
  readonly #lastRows: Int32Array;
  readonly #lastTokens: BigInt64Array;
  readonly #mask: Uint8Array;
  readonly #logits: Float32Array;
  /** Queries, and the context's part of attention, `[N, queryHeads, …]`. */
  readonly #rows: Readonly<Record<keyof ContextPart, Float32Array>>;
  readonly #tensors: OrtTensor[] = [];
  readonly #parts = new Map<string, ContextPart>();

  constructor(environment: OrtEnvironment, shape: QueryShape, config: ModelConfig) {
    const { requests, tokens, placesEach, tailRows } = shape;
    const { queryHeads, headDim } = config;
    const places = requests * placesEach;
    this.#environment = environment;
    this.#shape = shape;
    this.#config = config;
    this.#ids = new BigInt64Array(tokens);
    this.#positions = new BigInt64Array(tokens);
    this.#tailTokens = new BigInt64Array(places);
    this.#tokenPlaces = new BigInt64Array(tokens);
    this.#lastRows = new Int32Array(requests);
    this.#lastTokens = new BigInt64Array(requests);
    this.#mask = new Uint8Array(places * tailRows);
    this.#logits = new Float32Array(requests * config.vocabSize);
    this.#rows = {
      query: new Float32Array(tokens * queryHeads * headDim),
      output: new Float32Array(tokens * queryHeads * headDim),
      largest: new Float32Array(tokens * queryHeads),
      share: new Float32Array(tokens * queryHeads),
    };
  }

  fits(shape: QueryShape): boolean {
    return (
      this.#shape.requests === shape.requests &&
      this.#shape.tokens === shape.tokens &&
      this.#shape.placesEach === shape.placesEach &&
      this.#shape.tailRows === shape.tailRows
    );
  }

  /** Binds the graphs of all stages. */
  bind(stages: readonly OrtBinding[]): void {
    const { ofFirst, ofBeginning, ofEnding, ofLast, state, query, logits } = this.#make();
    for (const [stage, binding] of stages.entries()) {
      const [isFirst, isLast] = [stage === 0, stage === stages.length - 1];
      const inputs = {
        ...(isFirst ? ofFirst : { ...ofEnding, ...state }),
        ...(isLast ? ofLast : ofBeginning),
      };
      for (const [name, tensor] of Object.entries(inputs)) binding.input(name, tensor);
      if (isLast) {
        binding.output('logits', logits);
        continue;
      }
      for (const [name, tensor] of Object.entries(state)) binding.output(`${name}_out`, tensor);
      binding.output('query', query);
    }
  }

  #make() {
    const { requests, tokens, placesEach, tailRows } = this.#shape;
    const { queryHeads, headDim, hiddenSize, vocabSize } = this.#config;
    const places = requests * placesEach;
    const floats = (...shape: readonly number[]): OrtTensor =>
      this.#tensor(new Float32Array(shape.reduce((product, dim) => product * dim, 1)), shape);
    return {
      ofFirst: { input_ids: this.#tensor(this.#ids, [1, tokens]) },
      ofBeginning: {
        position_ids: this.#tensor(this.#positions, [1, tokens]),
        tail_shape: this.#tensor(BigInt64Array.of(BigInt(requests), BigInt(placesEach), -1n), [3]),
        tail_tokens: this.#tensor(this.#tailTokens, [places]),
        token_places: this.#tensor(this.#tokenPlaces, [tokens]),
        tail_last_rows: this.#tensor(this.#lastRows, [requests]),
        tail_rows: this.#tensor(Int32Array.of(tailRows), [1]),
        tail_mask: this.#tensor(this.#mask, [requests, 1, placesEach, tailRows]),
      },
      ofEnding: {
        context_output: this.#tensor(this.#rows.output, [tokens, queryHeads, headDim]),
        context_largest: this.#tensor(this.#rows.largest, [tokens, queryHeads, 1]),
        context_share: this.#tensor(this.#rows.share, [tokens, queryHeads, 1]),
      },
      ofLast: { last_tokens: this.#tensor(this.#lastTokens, [requests]) },
      // What a stage leaves lies where the one before left it.
      state: {
        residual: floats(1, tokens, hiddenSize),
        tail_output: floats(tokens, queryHeads, headDim),
        tail_largest: floats(tokens, queryHeads, 1),
        tail_share: floats(tokens, queryHeads, 1),
      },
      query: this.#tensor(this.#rows.query, [1, tokens, queryHeads * headDim]),
      logits: this.#tensor(this.#logits, [1, requests, vocabSize]),
    };
  }

  /** What one context's attention takes and gives; the same object for the same tokens. */
  part({ first, count }: TokenRun): ContextPart {
    const key = `${first}+${count}`;
    let part = this.#parts.get(key);
    if (part === undefined) {
      const { queryHeads, headDim } = this.#config;
      const rows = (name: keyof ContextPart, width: number): OrtTensor =>
        this.#tensor(this.#rows[name].subarray(first * width, (first + count) * width), [
          count,
          width,
        ]);
      part = {
        query: rows('query', queryHeads * headDim),
        output: rows('output', queryHeads * headDim),
        largest: rows('largest', queryHeads),
        share: rows('share', queryHeads),
      };
      this.#parts.set(key, part);
    }
    return part;
  }

  /**
   * @param requests in order of their tails' places
   * @param tokenOrder the same, those of a context together: the order of their tokens
   */
  fill(requests: readonly ForwardSlot[], tokenOrder: readonly ForwardSlot[]): void {
    const { placesEach, tailRows } = this.#shape;
    let token = 0;
    this.#tailTokens.fill(0n);
    this.#mask.fill(0);
    for (const slot of tokenOrder) {
      const { ids, startPosition, tail } = slot;
      const request = requests.indexOf(slot);
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
  }

  /** The logits of a request, copied. */
  logitsOf(request: number): Float32Array {
    const { vocabSize } = this.#config;
    return this.#logits.slice(request * vocabSize, (request + 1) * vocabSize);
  }

  close(): void {
    for (const tensor of this.#tensors.splice(0)) tensor.close();
    this.#parts.clear();
  }

  #tensor(data: TensorData, shape: readonly number[]): OrtTensor {
    const tensor = this.#environment.tensor(data, shape);
    this.#tensors.push(tensor);
    return tensor;
  }
}
