import { damaged } from './format.ts';
import type { RunPart } from './byte-source.ts';

/**
 * Checks a head's ranking as it comes: positions of the document, none twice; finite scores, best
 * first, equal ones by position. Shorter contexts are derived in that order.
 */
export class RankingCheck {
  readonly #tokens: number;
  /** A byte for each document token: 1 if it came. */
  readonly #seen: Uint8Array;
  #lastPosition = -1;
  #lastScore = Infinity;

  /** @param tokens of the document */
  constructor(tokens: number) {
    this.#tokens = tokens;
    this.#seen = new Uint8Array(tokens);
  }

  /** @throws ReadonceError `invalid_argument` */
  add({ count, payload }: RunPart): void {
    const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
    for (let row = 0; row < count; row++) {
      const position = view.getUint32(4 * row, true);
      const score = view.getFloat32(4 * (count + row), true);
      if (position >= this.#tokens) throw damaged('a position outside its document');
      if (this.#seen[position] === 1) throw damaged('a position twice in a ranking');
      if (!Number.isFinite(score)) throw damaged('a score that is no finite number');
      const follows =
        score < this.#lastScore || (score === this.#lastScore && position > this.#lastPosition);
      if (!follows) throw damaged('a ranking out of order');
      this.#seen[position] = 1;
      this.#lastPosition = position;
      this.#lastScore = score;
    }
  }
}
