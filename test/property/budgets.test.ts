import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { KeptPairs } from '../../src/compression/budget.ts';
import { budgets } from '../../src/compression/registry.ts';
import { headCount } from '../../src/core/kv-layout.ts';
import type { KvLayout } from '../../src/core/kv-layout.ts';

/** The definition of each budget, as slow and obvious as possible: kept positions of each head. */
const definitions = new Map([
  ['global', definedGlobal],
  ['uniform', definedUniform],
]);

interface Case {
  readonly layout: KvLayout;
  readonly tokens: number;
  readonly scores: Float32Array;
  readonly keepRatio: number;
  /** At most `keepRatio`. */
  readonly smallerRatio: number;
}

/** Few distinct values, so that ties are common; zeros of both signs are equal. */
const tiedScore = fc.constantFrom(-1, -0, 0, 0.25, 0.5, 1);
const anyScore = fc.float({ noNaN: true, noDefaultInfinity: true });
const ratio = fc.double({ min: 0.001, max: 1, noNaN: true });

const cases: fc.Arbitrary<Case> = fc
  .tuple(fc.nat(3), fc.nat(3), fc.nat(30), fc.constantFrom(tiedScore, anyScore), ratio, ratio)
  .chain(([layers, kvHeads, extraTokens, score, a, b]) => {
    const layout = { layers: layers + 1, kvHeads: kvHeads + 1, group: 1, headDim: 2 };
    const tokens = extraTokens + 1;
    const length = headCount(layout) * tokens;
    return fc.array(score, { minLength: length, maxLength: length }).map((scores) => ({
      layout,
      tokens,
      scores: Float32Array.from(scores),
      keepRatio: Math.max(a, b),
      smallerRatio: Math.min(a, b),
    }));
  });

describe.each([...budgets])('budget %s', (name, budget) => {
  it('keeps exactly the pairs of its definition, best first, ties by position', () => {
    const definition = definitions.get(name);
    expect(definition, `a definition of budget ${name} in this test`).toBeDefined();
    fc.assert(
      fc.property(cases, (given) => {
        const kept = budget.select(given.scores, given.layout, given.keepRatio);
        expect(headPositions(kept)).toEqual(definition?.(given));
      }),
    );
  });

  it('reports the score of every kept pair', () => {
    fc.assert(
      fc.property(cases, ({ scores, layout, tokens, keepRatio }) => {
        const kept = budget.select(scores, layout, keepRatio);
        const expected = headPositions(kept).flatMap((positions, head) =>
          positions.map((position) => scores[head * tokens + position]),
        );
        expect([...kept.scores]).toEqual(expected);
      }),
    );
  });

  it('is nested: a smaller ratio keeps a prefix of each head', () => {
    fc.assert(
      fc.property(cases, ({ scores, layout, keepRatio, smallerRatio }) => {
        const larger = headPositions(budget.select(scores, layout, keepRatio));
        const smaller = headPositions(budget.select(scores, layout, smallerRatio));
        const prefixes = larger.map((head, i) => head.slice(0, smaller[i]?.length));
        expect(smaller).toEqual(prefixes);
      }),
    );
  });

  it('finds the counts of a smaller ratio from what a larger one stored', () => {
    fc.assert(
      fc.property(cases, ({ scores, layout, tokens, keepRatio, smallerRatio }) => {
        const stored = budget.select(scores, layout, keepRatio);
        const input = { layout, documentTokens: tokens, keepRatio: smallerRatio, stored };
        const selected = budget.select(scores, layout, smallerRatio);
        expect(budget.prefixCounts(input)).toEqual(selected.counts);
      }),
    );
  });

  it('depends on the order of scores only, not on their scale', () => {
    fc.assert(
      fc.property(cases, ({ scores, layout, keepRatio }) => {
        const ranks = [...new Set(scores.toSorted())];
        const ranked = scores.map((score) => ranks.findIndex((rank) => rank === score));
        const kept = budget.select(scores, layout, keepRatio);
        const keptByRank = budget.select(ranked, layout, keepRatio);
        expect(keptByRank.positions).toEqual(kept.positions);
      }),
    );
  });
});

function headPositions(kept: KeptPairs): number[][] {
  let start = 0;
  return Array.from(kept.counts, (count) => {
    const positions = kept.positions.slice(start, start + count);
    start += count;
    return [...positions];
  });
}

function definedGlobal({ layout, tokens, scores, keepRatio }: Case): number[][] {
  const count = Math.round(keepRatio * scores.length);
  const best = bestFirst([...scores.keys()], scores).slice(0, count);
  return Array.from({ length: headCount(layout) }, (_, head) =>
    best.filter((i) => Math.floor(i / tokens) === head).map((i) => i % tokens),
  );
}

function definedUniform({ layout, tokens, scores, keepRatio }: Case): number[][] {
  const count = Math.round(keepRatio * tokens);
  return Array.from({ length: headCount(layout) }, (_, head) => {
    const indices = Array.from({ length: tokens }, (_, position) => head * tokens + position);
    return bestFirst(indices, scores)
      .slice(0, count)
      .map((i) => i % tokens);
  });
}

/** Indices by descending score; sorting is stable, so ties stay in ascending order. */
function bestFirst(indices: readonly number[], scores: Float32Array): number[] {
  return indices.toSorted((a, b) => Number(scores[b]) - Number(scores[a]));
}
