import { describe, expect, it } from 'vitest';
import { parseBenchOptions, partNames } from '../../eval/options.ts';

const refusal = (message: RegExp): unknown =>
  expect.objectContaining({
    code: 'invalid_argument',
    message: expect.stringMatching(message),
  });

describe('the options of the benchmark', () => {
  it('run every part by default, without the generated documents', () => {
    expect(parseBenchOptions([], {})).toEqual({
      // Devices are compared when asked for: it takes two.
      parts: partNames.filter((name) => name !== 'devices'),
      out: 'bench-results/bench.json',
      documents: undefined,
      quick: false,
    });
  });

  it('choose parts, which keep their order', () => {
    const args = ['--only', 'speed,quality', '--quick', '--out', 'x.json', '--documents', 'd'];
    expect(parseBenchOptions(args, {})).toEqual({
      parts: ['quality', 'speed'],
      out: 'x.json',
      documents: 'd',
      quick: true,
    });
  });

  it('find the generated documents by the environment too', () => {
    const environment = { READONCE_EVAL_DOCUMENTS: 'somewhere.jsonl' };
    expect(parseBenchOptions([], environment).documents).toBe('somewhere.jsonl');
  });

  it.each([
    [
      ['--only', 'speed,haste'],
      /quality, reconstruction, size, speed, batching, devices for --only but got "haste"/,
    ],
    [['--only', ''], /for --only but got ""/],
    [['--fast'], /Expected "npm run bench/],
    [['stray'], /Expected "npm run bench/],
  ])('refuse %j', (args, message) => {
    expect(() => parseBenchOptions(args, {})).toThrow(refusal(message));
  });
});
