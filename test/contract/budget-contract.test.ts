import { describe, expect, it } from 'vitest';
import { budgets } from '../../src/compression/registry.ts';
import { AssertionError } from '../../src/core/assert.ts';
import { headCount } from '../../src/core/kv-layout.ts';

const layout = { layers: 3, kvHeads: 2, group: 3, headDim: 4 };
const heads = headCount(layout);
const tokens = 40;
const someScores = (): Float32Array =>
  Float32Array.from({ length: heads * tokens }, (_, i) => Math.sin(i * i));

describe.each([...budgets])('budget %s', (name, budget) => {
  it('carries its registered name and a one-sentence description', () => {
    expect(budget.name).toBe(name);
    expect(name).toMatch(/^[a-z][a-z0-9-]*$/);
    expect(budget.description).toMatch(/^[A-Z].*\.$/);
  });

  it('keeps every pair at keepRatio 1', () => {
    const kept = budget.select(someScores(), layout, 1);
    expect([...kept.counts]).toEqual(Array.from({ length: heads }, () => tokens));
    expect(new Set(kept.positions.subarray(0, tokens)).size).toBe(tokens);
  });

  it('keeps document order where all scores are equal', () => {
    const kept = budget.select(new Float32Array(heads * tokens), layout, 1);
    const inOrder = Array.from({ length: heads * tokens }, (_, i) => i % tokens);
    expect([...kept.positions]).toEqual(inOrder);
  });

  it('could keep what it keeps, and not a pair more or less', () => {
    for (const keepRatio of [0.001, 0.3, 1]) {
      const counts = [...budget.select(someScores(), layout, keepRatio).counts];
      const could = (change: number): boolean =>
        budget.couldKeep({
          counts: counts.with(2, (counts[2] ?? 0) + change),
          documentTokens: tokens,
          keepRatio,
        });
      expect([could(-1), could(0), could(1)]).toEqual([false, true, false]);
    }
  });

  it('leaves the scores as they were', () => {
    const scores = someScores();
    budget.select(scores, layout, 0.3);
    expect(scores).toEqual(someScores());
  });

  it('keeps nothing of a document when the ratio rounds to no pair', () => {
    const kept = budget.select(someScores(), layout, 0.001);
    expect([...kept.counts]).toEqual(Array.from({ length: heads }, () => 0));
    expect(kept.positions).toHaveLength(0);
    expect(kept.scores).toHaveLength(0);
  });

  it.each([Number.NaN, Infinity, -Infinity])('treats a score of %d as a bug', (broken) => {
    const scores = someScores();
    scores[17] = broken;
    expect(() => budget.select(scores, layout, 0.5)).toThrow(AssertionError);
  });

  it.each([0, -0.1, 1.01, Number.NaN])('treats a keepRatio of %d as a bug', (keepRatio) => {
    expect(() => budget.select(someScores(), layout, keepRatio)).toThrow(AssertionError);
  });

  it('treats scores that do not fill the heads as a bug', () => {
    const scores = someScores().subarray(1);
    expect(() => budget.select(scores, layout, 0.5)).toThrow(AssertionError);
  });

  it('treats a prefix longer than what is stored as a bug', () => {
    const stored = budget.select(someScores(), layout, 0.2);
    const input = { layout, documentTokens: tokens, keepRatio: 0.3, stored };
    expect(() => budget.prefixCounts(input)).toThrow(AssertionError);
  });
});
