import { describe, expect, it } from 'vitest';
import { parseLoadTestOptions, scenarioNames, scenarioNeeds } from '../../loadtest/options.ts';
import { scenarios } from '../../loadtest/registry.ts';

const refusal = (message: RegExp): unknown =>
  expect.objectContaining({
    code: 'invalid_argument',
    message: expect.stringMatching(message),
  });

describe('the options of the load test', () => {
  it('run the usual scenarios with the default model, without the long ones', () => {
    expect(parseLoadTestOptions([])).toEqual({
      model: 'reader',
      scenarios: ['single', 'reuse', 'baseline', 'stream', 'mixed', 'cold', 'burst'],
      quick: false,
      minutes: 20,
      out: 'loadtest/report.md',
    });
  });

  it('run what a chosen scenario is compared with, before it', () => {
    expect(parseLoadTestOptions(['--only', 'baseline']).scenarios).toEqual([
      'single',
      'reuse',
      'baseline',
    ]);
  });

  it('write the report of a partial or a quick run elsewhere', () => {
    expect(parseLoadTestOptions(['--only', 'mixed,cold']).out).toBe(
      'loadtest/report-mixed-cold.md',
    );
    expect(parseLoadTestOptions(['--quick']).out).toBe('bench-results/loadtest/report.md');
    expect(parseLoadTestOptions(['--quick', '--out', 'x.md']).out).toBe('x.md');
  });

  it('take the length of the soak', () => {
    expect(parseLoadTestOptions(['--only', 'soak', '--minutes', '2.5'])).toMatchObject({
      scenarios: ['soak'],
      minutes: 2.5,
    });
  });

  it.each([
    [['--only', 'reuse,rush'], /for --only but got "rush"/],
    [['--only', ''], /for --only but got ""/],
    [['--minutes', '0'], /above 0 and at most 1440 for --minutes but got "0"/],
    [['--minutes', 'long'], /for --minutes but got "long"/],
    [['--out', 'report.txt'], /ends in .md for --out but got "report.txt"/],
    [['--fast'], /Expected "npm run loadtest/],
  ])('refuse %j', (args, message) => {
    expect(() => parseLoadTestOptions(args)).toThrow(refusal(message));
  });
});

describe('the scenarios', () => {
  it('are all there, and need only scenarios that run before them', () => {
    expect(Object.keys(scenarios).toSorted()).toEqual(scenarioNames.toSorted());
    for (const [i, name] of scenarioNames.entries()) {
      expect(scenarioNames.slice(0, i)).toEqual(expect.arrayContaining([...scenarioNeeds[name]]));
    }
  });
});
