import { expect, it } from 'vitest';
import { runKillRounds } from './kill-harness.ts';

/** Kills of this test; `npm run test:kill` does more. */
const rounds = 30;

/** A failure names it: `npm run test:kill -- --seed N` does about the same again. */
const seed = Date.now() % 2 ** 31;

it(
  'no promise is broken by kill -9 of the server, of its engine, or of both, at any moment',
  { timeout: 400_000 },
  async () => {
    const report = await runKillRounds({ rounds, seed, recipes: 12, threadShare: 0.5 });
    const evidence = JSON.stringify({ ...report, log: undefined });
    expect(report.violations, `${evidence}\n${report.log}`).toEqual([]);
    expect(report.leakedBytes, evidence).toBeLessThanOrEqual(leakToleranceBytes);
    expect(report.rounds).toBe(rounds);
    expect(report.contextsChecked).toBeGreaterThan(rounds);
    expect(report.answersCompared).toBeGreaterThan(rounds * 12);
    expect(report.threadKills).toBeGreaterThan(0);
    expect(report.threadBatches).toBeGreaterThan(0);
  },
);

/**
 * Trees are not the same shape after other writes in another order: a few pages of 4096 bytes more
 * or less. A lost context would leave 50 and more.
 */
const leakToleranceBytes = 16 * 4096;
