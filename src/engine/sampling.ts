import { assert, defined } from '../core/assert.ts';
import { createRandom } from '../core/random.ts';
import type { Logits } from '../runtime/runtime.ts';
import type { SamplingOptions } from './protocol.ts';

/** Chooses tokens from logits. */
export interface Sampler {
  /** The next token's id. Greedy decoding asks for nothing but `argmax`. */
  next(logits: Logits): number;
}

/** What a sampler itself depends on; the rest of `SamplingOptions` ends answers. */
export type SamplerOptions = Pick<SamplingOptions, 'temperature' | 'topK' | 'topP' | 'seed'>;

/**
 * A sampler with random numbers of its own: the same options and logits give the same tokens.
 * Temperature 0 takes the likeliest token, the lowest id if tied. Otherwise the softmax of
 * `logits / temperature` is cut to its `topK` likeliest tokens (0: no limit), then to the fewest
 * likeliest ones that hold `topP` of what is left (at least one; Holtzman et al., arXiv
 * 1904.09751), and a token drawn from those by its weight. Ties at a cut go to the lowest ids.
 * Linear in the vocabulary, and n·log(vocabulary) more for n tokens inside a cut.
 */
export function createSampler(options: SamplerOptions): Sampler {
  const { temperature, topK, topP } = options;
  assert(temperature >= 0, `expected a temperature of at least 0 but got ${temperature}`);
  assert(Number.isInteger(topK) && topK >= 0, `expected a whole topK but got ${topK}`);
  assert(topP >= 0 && topP <= 1, `expected topP in [0, 1] but got ${topP}`);
  if (temperature === 0) return { next: (logits) => logits.argmax() };
  const random = createRandom(options.seed);
  return {
    next: (logits) => {
      const weights = softmaxWeights(logits, temperature);
      const ids = candidates(weights, { topK, topP });
      if (ids === undefined) return draw(weights, random.next());
      return ids[draw(pick(weights, ids), random.next())] as number;
    },
  };
}

/** Softmax without its division: the likeliest token weighs 1. */
function softmaxWeights(logits: Logits, temperature: number): Float64Array {
  const values = logits.values();
  const largest = values[logits.argmax()] as number;
  const weights = new Float64Array(values.length);
  for (let i = 0; i < weights.length; i++) {
    weights[i] = Math.exp(((values[i] as number) - largest) / temperature);
  }
  return weights;
}

type Cuts = Pick<SamplerOptions, 'topK' | 'topP'>;

/** The ids inside both cuts, likeliest first; undefined if nothing is cut. */
function candidates(weights: Float64Array, { topK, topP }: Cuts): readonly number[] | undefined {
  const limited = topK > 0 && topK < weights.length;
  if (!limited && topP === 1) return undefined;
  const ordered = likeliestFirst(weights);
  if (!limited) return nucleus(ordered, weights, topP * sum(weights));
  const best = Array.from({ length: topK }, () => defined(ordered.next().value, 'a token'));
  return nucleus(best, weights, topP * sum(pick(weights, best)));
}

/** The first of `ids` that together weigh `target`. */
function nucleus(ids: Iterable<number>, weights: Float64Array, target: number): readonly number[] {
  const kept: number[] = [];
  let total = 0;
  for (const id of ids) {
    kept.push(id);
    total += weights[id] as number;
    if (total >= target) break;
  }
  return kept;
}

function pick(weights: Float64Array, ids: readonly number[]): Float64Array {
  return Float64Array.from(ids, (id) => weights[id] as number);
}

function sum(weights: Float64Array): number {
  return weights.reduce((total, weight) => total + weight, 0);
}

/** The index at the fraction `point` (in [0, 1)) of the total weight. */
function draw(weights: Float64Array, point: number): number {
  const target = point * sum(weights);
  let total = 0;
  const index = weights.findIndex((weight) => {
    total += weight;
    return target < total;
  });
  assert(index >= 0, 'expected logits that are numbers');
  return index;
}

/**
 * All ids by descending weight, ties by ascending id, from a heap: the first few cost little, where
 * a sort would order the whole vocabulary.
 */
function* likeliestFirst(weights: Float64Array): Generator<number, undefined> {
  const heap = Int32Array.from(weights.keys());
  const before = (a: number, b: number): boolean => {
    const difference = (weights[a] as number) - (weights[b] as number);
    return difference > 0 || (difference === 0 && a < b);
  };
  /** Moves the id at `start` down until no id below it within `size` comes before it. */
  const settle = (start: number, size: number): void => {
    const id = heap[start] as number;
    let place = start;
    for (;;) {
      let child = 2 * place + 1;
      if (child >= size) break;
      if (child + 1 < size && before(heap[child + 1] as number, heap[child] as number)) child++;
      if (!before(heap[child] as number, id)) break;
      heap[place] = heap[child] as number;
      place = child;
    }
    heap[place] = id;
  };
  for (let place = Math.floor(heap.length / 2) - 1; place >= 0; place--) settle(place, heap.length);
  for (let size = heap.length - 1; size >= 0; size--) {
    yield heap[0] as number;
    heap[0] = heap[size] as number;
    settle(0, size);
  }
}
