import { describe, expect, it } from 'vitest';
import { pieceScores } from '../../src/compression/budgets/score-order.ts';
import { budgets } from '../../src/compression/registry.ts';
import { headCount } from '../../src/core/kv-layout.ts';
import { createRandom } from '../../src/core/random.ts';

const layout = { layers: 3, kvHeads: 1, group: 1, headDim: 2 };
const heads = headCount(layout);
/** So many that scores are looked at in two pieces. */
const tokens = Math.round((1.1 * pieceScores) / heads);
const keepRatio = 0.3;

/** With many ties, of both signs. */
function someScores(): Float32Array {
  const random = createRandom(7);
  return Float32Array.from({ length: heads * tokens }, () => {
    const bits = random.nextUint32();
    return ((bits & 0xffff) / 2 ** 16) * (bits >>> 31 === 1 ? -1 : 1);
  });
}

/** Places of the best `count` scores, best first, ties by place: by native sorting alone. */
function bestPlaces(scores: Float32Array, count: number): Uint32Array {
  // Both numbers are whole, and together exact in float64.
  const keys = Float64Array.from(scores, (score, i) => -score * 2 ** 16 * 2 ** 32 + i).toSorted();
  const places = keys.subarray(0, count).map((key) => key - Math.floor(key / 2 ** 32) * 2 ** 32);
  return Uint32Array.from(places);
}

/** Positions that are kept, heads one after another, as bytes. */
const definitions = new Map([
  ['global', definedGlobal],
  ['uniform', definedUniform],
]);

describe.each([...budgets])('budget %s of more scores than fit a piece', (name, budget) => {
  it('keeps what its definition says, and pauses meanwhile', () => {
    const scores = someScores();
    const work = budget.choose(scores, layout, keepRatio);
    let pauses = 0;
    let piece = work.next();
    for (; piece.done !== true; piece = work.next()) pauses++;
    const defined = definitions.get(name)?.(scores) ?? Buffer.alloc(0);
    // Compared as bytes: element by element takes seconds.
    expect(Buffer.compare(bytesOf(piece.value.positions), defined)).toBe(0);
    expect(pauses).toBeGreaterThan(2);
  });
});

function definedGlobal(scores: Float32Array): Buffer {
  const best = bestPlaces(scores, Math.round(keepRatio * scores.length));
  const ofHeads = Array.from({ length: heads }, (_, head) =>
    best
      .filter((place) => Math.floor(place / tokens) === head)
      .map((place) => place - head * tokens),
  );
  return Buffer.concat(ofHeads.map(bytesOf));
}

function definedUniform(scores: Float32Array): Buffer {
  const ofHeads = Array.from({ length: heads }, (_, head) =>
    bestPlaces(scores.subarray(head * tokens, (head + 1) * tokens), Math.round(keepRatio * tokens)),
  );
  return Buffer.concat(ofHeads.map(bytesOf));
}

function bytesOf(numbers: Uint32Array): Uint8Array {
  return new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);
}
