import type { KeptPairs } from '../compression/budget.ts';
import type { Precision } from '../core/precision.ts';
import type { DenseCache } from '../runtime/runtime.ts';
import type { HeadPairs, HeadRanking } from '../../storage/context-store.ts';

/** A head's kept pairs in stored order: the prefix, then the document's, best first. */
export class RankedPairs {
  readonly #cache: DenseCache;
  readonly #kept: KeptPairs;
  readonly #prefixTokens: number;
  readonly #headDim: number;
  readonly #precision: Precision;
  /** Where each head's entries begin in `kept`. */
  readonly #starts: Uint32Array;

  constructor(
    cache: DenseCache,
    options: {
      readonly kept: KeptPairs;
      readonly prefixTokens: number;
      readonly headDim: number;
      readonly precision: Precision;
    },
  ) {
    this.#cache = cache;
    this.#kept = options.kept;
    this.#prefixTokens = options.prefixTokens;
    this.#headDim = options.headDim;
    this.#precision = options.precision;
    this.#starts = new Uint32Array(this.#kept.counts.length + 1);
    for (const [head, count] of this.#kept.counts.entries()) {
      this.#starts[head + 1] = (this.#starts[head] as number) + count;
    }
  }

  ranking(head: number): HeadRanking {
    const [start, end] = [this.#starts[head], this.#starts[head + 1]];
    return {
      positions: this.#kept.positions.subarray(start, end),
      scores: this.#kept.scores.subarray(start, end),
    };
  }

  encode(head: number): HeadPairs {
    const { positions } = this.ranking(head);
    const rows = this.#prefixTokens + positions.length;
    return {
      rows,
      keys: this.#encodeRows(this.#cache.keys(head, 0, this.#cache.length), positions),
      values: this.#encodeRows(this.#cache.values(head, 0, this.#cache.length), positions),
    };
  }

  #encodeRows(dense: Float32Array, positions: Uint32Array): Uint8Array {
    const headDim = this.#headDim;
    const rows = this.#prefixTokens + positions.length;
    const ranked = new Float32Array(rows * headDim);
    ranked.set(dense.subarray(0, this.#prefixTokens * headDim));
    for (const [rank, position] of positions.entries()) {
      const from = (this.#prefixTokens + position) * headDim;
      const to = (this.#prefixTokens + rank) * headDim;
      ranked.set(dense.subarray(from, from + headDim), to);
    }
    const bytes = new Uint8Array(this.#precision.encodedBytes(rows, headDim));
    this.#precision.encode(ranked, bytes, headDim);
    return bytes;
  }
}
