import { describe, expect, it } from 'vitest';
import { keyNorm } from '../../src/compression/methods/key-norm.ts';
import { kvzip } from '../../src/compression/methods/kvzip.ts';
import { none } from '../../src/compression/methods/none.ts';
import { random } from '../../src/compression/methods/random.ts';
import { streamingLlm } from '../../src/compression/methods/streaming-llm.ts';
import { uniformBudget } from '../../src/compression/budgets/uniform.ts';
import { AssertionError } from '../../src/core/assert.ts';
import { headCount } from '../../src/core/kv-layout.ts';
import { fakeAccess, fakeAttention } from '../contract/method-contract-access.ts';

describe('kvzip', () => {
  it('puts the attention of each pass at its head and tokens', async () => {
    const tokens = 4100;
    const access = fakeAccess({ tokens });
    const scores = await kvzip.score(access);
    const expected = Float32Array.from({ length: headCount(access.layout) * tokens }, (_, i) =>
      fakeAttention(Math.floor(i / tokens), i % tokens),
    );
    expect(access.passes).toHaveLength(3);
    expect(scores).toEqual(expected);
  });

  it('treats a pass of the wrong shape as a bug', async () => {
    const access = fakeAccess({ tokens: 10 });
    const broken = { ...access, reconstruct: async () => new Float32Array(9) };
    await expect(kvzip.score(broken)).rejects.toThrow(AssertionError);
  });

  it('passes on what stops a pass', async () => {
    const stopped = new Error('stopped');
    const access = { ...fakeAccess({ tokens: 10 }), reconstruct: () => Promise.reject(stopped) };
    await expect(kvzip.score(access)).rejects.toBe(stopped);
  });
});

describe('none', () => {
  it('keeps pairs in document order', async () => {
    const access = fakeAccess({ tokens: 5 });
    const kept = uniformBudget.select(await none.score(access), access.layout, 1);
    expect([...kept.positions.subarray(0, 5)]).toEqual([0, 1, 2, 3, 4]);
  });
});

describe('random', () => {
  it('spreads scores evenly over [0, 1)', async () => {
    const scores = await random.score(fakeAccess({ tokens: 2500 }));
    const tenths = Array.from({ length: 10 }, () => 0);
    for (const score of scores)
      tenths[Math.floor(score * 10)] = (tenths[Math.floor(score * 10)] ?? 0) + 1;
    expect(tenths).toHaveLength(10);
    // 10,000 fair draws: 1,000 a tenth with a standard deviation of 30; five of them is certainty.
    for (const count of tenths) expect(Math.abs(count - 1000)).toBeLessThan(150);
  });

  it('draws anew for each head and for each document', async () => {
    const tokens = 1000;
    const scores = await random.score(fakeAccess({ tokens }));
    const other = await random.score(fakeAccess({ tokens, firstId: 1 }));
    const pairs = [
      [scores.subarray(0, tokens), scores.subarray(tokens, 2 * tokens)],
      [scores.subarray(0, tokens), other.subarray(0, tokens)],
    ] as const;
    // Independent draws correlate by chance with a standard deviation of 1/√1000 ≈ 0.03.
    for (const [a, b] of pairs) expect(Math.abs(correlation(a, b))).toBeLessThan(0.16);
  });

  it('gives the numbers that stored contexts were made with', async () => {
    const scores = await random.score(fakeAccess({ tokens: 3 }));
    expect([...scores.subarray(0, 3)]).toMatchInlineSnapshot(`
      [
        0.7389177083969116,
        0.7641687393188477,
        0.7774888873100281,
      ]
    `);
  });
});

describe('streaming-llm', () => {
  it('keeps the first four tokens and the most recent ones, in every head', async () => {
    const access = fakeAccess({ tokens: 20 });
    const kept = uniformBudget.select(await streamingLlm.score(access), access.layout, 0.35);
    for (let head = 0; head < headCount(access.layout); head++) {
      const positions = [...kept.positions.subarray(head * 7, (head + 1) * 7)];
      expect(positions).toEqual([0, 1, 2, 3, 19, 18, 17]);
    }
  });

  it('tells the tokens of a long document apart', async () => {
    const tokens = 131_072;
    const layout = { layers: 1, kvHeads: 1, group: 1, headDim: 1 };
    const scores = await streamingLlm.score(fakeAccess({ tokens, layout }));
    expect(new Set(scores).size).toBe(tokens - 3);
  });
});

describe('key-norm', () => {
  it('scores minus the L2 norm of each key', async () => {
    const layout = { layers: 1, kvHeads: 2, group: 1, headDim: 2 };
    const access = {
      ...fakeAccess({ tokens: 2, layout }),
      documentKeys: (head: number) => Float32Array.of(3, 4, head, 0),
    };
    expect([...(await keyNorm.score(access))]).toEqual([-5, -0, -5, -1]);
  });

  it('treats keys of the wrong shape as a bug', async () => {
    const access = { ...fakeAccess({ tokens: 2 }), documentKeys: () => new Float32Array(3) };
    await expect(keyNorm.score(access)).rejects.toThrow(AssertionError);
  });
});

function correlation(a: Float32Array, b: Float32Array): number {
  const mean = (values: readonly number[]): number =>
    values.reduce((sum, value) => sum + value, 0) / values.length;
  const centred = (values: Float32Array): number[] => {
    const middle = mean([...values]);
    return Array.from(values, (value) => value - middle);
  };
  const product = (x: readonly number[], y: readonly number[]): number =>
    mean(x.map((value, i) => value * (y[i] ?? Number.NaN)));
  const [x, y] = [centred(a), centred(b)];
  return product(x, y) / Math.sqrt(product(x, x) * product(y, y));
}
