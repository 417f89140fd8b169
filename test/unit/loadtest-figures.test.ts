import { describe, expect, it } from 'vitest';
import { metricValue } from '../../loadtest/idle.ts';
import { linearFit, secondHalfGrowth } from '../../loadtest/linear-fit.ts';
import { largest, percentile, percentiles } from '../../loadtest/percentiles.ts';
import { createTally } from '../../loadtest/tally.ts';
import { judgeAllAnswered, judgeRight, loadTargets } from '../../loadtest/targets.ts';
import { createTexts } from '../../loadtest/documents.ts';

describe('percentiles', () => {
  it('are values that occurred, by nearest rank', () => {
    const values = Array.from({ length: 100 }, (_, i) => 100 - i);
    expect(percentiles(values)).toEqual({ p50: 50, p95: 95, p99: 99 });
    expect(percentile([3, 1, 2], 0.5)).toBe(2);
    expect(percentiles([7])).toEqual({ p50: 7, p95: 7, p99: 7 });
    expect(largest([2, 9, 4])).toBe(9);
  });

  it('are NaN of nothing, which no target passes', () => {
    expect(percentiles([])).toEqual({ p50: Number.NaN, p95: Number.NaN, p99: Number.NaN });
    expect(largest([])).toBeNaN();
  });
});

describe('a linear fit', () => {
  it('finds the line that points lie on', () => {
    const line = linearFit([0, 1, 5].map((x) => ({ x, y: 3 - 2 * x })));
    expect(line.slope).toBeCloseTo(-2, 12);
    expect(line.at0).toBeCloseTo(3, 12);
  });

  it('is level for a single point', () => {
    expect(linearFit([{ x: 4, y: 9 }])).toEqual({ slope: 0, at0: 9 });
  });

  it('sees growth in the second half only', () => {
    const warmUp = [0, 10, 20, 30, 40].map((x) => ({ x, y: x }));
    const level = [50, 60, 70, 80, 90, 100].map((x) => ({ x, y: 50 }));
    expect(secondHalfGrowth([...warmUp, ...level])).toEqual({ growth: 0, mean: 50, share: 0 });
    const growing = [0, 50, 100].map((x) => ({ x, y: 100 + x }));
    expect(secondHalfGrowth(growing).growth).toBeCloseTo(50, 9);
  });
});

const shot = {
  firstTokenMs: 5,
  firstPieceMs: undefined,
  totalMs: 20,
  completionTokens: 4,
  source: 'host',
};
const phase = { name: 'some, short', clients: 2 };

describe('a tally', () => {
  it('counts answers, tokens and the tiers of contexts', () => {
    const tally = createTally();
    tally.answered(shot);
    tally.answered({ ...shot, firstTokenMs: 9, source: 'disk' });
    tally.gaps([1, 2, 3]);
    const figures = tally.figures(phase);
    expect(figures).toMatchObject({ ...phase, answers: 2, wrong: 0, errors: {}, refused: {} });
    expect(figures.sources).toEqual({ host: 1, disk: 1 });
    expect(figures.firstTokenMs).toEqual({ p50: 5, p95: 9, p99: 9 });
    expect(figures.firstPieceMs.p50).toBeNaN();
    expect(figures.gapMs.p50).toBe(2);
    expect(figures.tokensPerSecond / figures.requestsPerSecond).toBeCloseTo(4, 9);
  });

  it('takes a refusal without Retry-After for an error', () => {
    const tally = createTally();
    tally.refused('overloaded', true);
    tally.refused('overloaded', false);
    tally.failed('internal');
    expect(tally.requests()).toBe(3);
    expect(tally.figures(phase)).toMatchObject({
      refused: { overloaded: 1 },
      errors: { 'overloaded without Retry-After': 1, internal: 1 },
    });
  });

  it('keeps the first wrong answers only', () => {
    const tally = createTally();
    for (let i = 0; i < 9; i++) tally.wrong({ query: `${i}`, expected: 'a', got: 'b' });
    const { wrong, mismatches } = tally.figures(phase);
    expect([wrong, mismatches.length]).toEqual([9, 5]);
  });
});

describe('the checks of a scenario', () => {
  const failed = (checks: ReturnType<typeof judgeRight>): readonly string[] =>
    checks.filter(({ passed }) => !passed).map(({ what }) => what);
  const figuresOf = (fill: (tally: ReturnType<typeof createTally>) => void) => {
    const tally = createTally();
    fill(tally);
    return tally.figures(phase);
  };
  const answered = figuresOf((tally) => tally.answered(shot));

  it('fail for a wrong answer, an error, and a phase without any answer', () => {
    const bad = figuresOf((tally) => {
      tally.wrong({ query: 'q', expected: 'a', got: 'b' });
      tally.failed('internal');
    });
    expect(failed(judgeRight('x', [answered]))).toEqual([]);
    expect(failed(judgeRight('x', [answered, bad]))).toEqual([
      'x: answers of the phase with the fewest',
      'x: wrong answers',
      'x: errors',
    ]);
  });

  it('accept refusals only where they are expected', () => {
    const refused = figuresOf((tally) => {
      tally.answered(shot);
      tally.refused('overloaded', true);
    });
    expect(failed(judgeRight('x', [refused]))).toEqual([]);
    expect(failed(judgeAllAnswered('x', [refused]))).toEqual(['x: refused']);
  });

  it('have targets with a reason and a name of their own', () => {
    const targets = Object.values(loadTargets);
    expect(new Set(targets.map(({ what }) => what)).size).toBe(targets.length);
    expect(targets.filter(({ reason }) => reason.length < 20)).toEqual([]);
  });
});

describe("the server's metrics", () => {
  const page = '# TYPE a gauge\na 3\na_total 4\nb{state="x"} 1\n';

  it.each([
    ['a', 3],
    ['a_total', 4],
    ['c', undefined],
  ])('%s is %s', (name, value) => {
    expect(metricValue(page, name)).toBe(value);
  });
});

describe('the documents of the load test', () => {
  const library = createTexts(3);

  it.each([600, 4000, 6000])('have about %d tokens', (tokens) => {
    const { document, questions } = library.document({ number: 7, tokens });
    // The last passage that does not fit is some 200 tokens long.
    expect(Math.abs(document.length / 3 - tokens)).toBeLessThan(250);
    expect(questions.length).toBeGreaterThan(8);
  });

  it('are the same for a number, and different for another', () => {
    const [one, again, other] = [1, 1, 2].map((number) =>
      library.document({ number, tokens: 1000 }),
    );
    expect(one).toEqual(again);
    expect(one?.document).not.toBe(other?.document);
  });

  it('have at least one passage, however short they should be', () => {
    expect(library.document({ number: 3, tokens: 1 }).questions.length).toBeGreaterThan(0);
  });
});
