import type { KeptPairs } from '../compression/budget.ts';
import type { Precision } from '../core/precision.ts';
import type { DenseCache } from '../runtime/runtime.ts';
import type { HeadPairs, HeadRanking } from '../../storage/context-store.ts';

/** A head's kept pairs in stored order: the prefix, then the document's, best first. */
export class RankedPairs {
  readonly #cache: DenseCache;
  readonly #kept: KeptPairs;
  readonly #prefixTokens: number;
  readonly #precision: Precision;
  /** Where each head's entries begin in `kept`. */
  readonly #starts: Uint32Array;

  constructor(
    cache: DenseCache,
    options: {
      readonly kept: KeptPairs;
      readonly prefixTokens: number;
      readonly precision: Precision;
    },
  ) {
    this.#cache = cache;
    this.#kept = options.kept;
    this.#prefixTokens = options.prefixTokens;
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
    const rows = new Uint32Array(this.#prefixTokens + positions.length);
    for (let row = 0; row < this.#prefixTokens; row++) rows[row] = row;
    for (let rank = 0; rank < positions.length; rank++) {
      rows[this.#prefixTokens + rank] = this.#prefixTokens + (positions[rank] as number);
    }
    return this.#cache.pairs(head, rows, this.#precision);
  }
}
