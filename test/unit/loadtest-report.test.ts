import { describe, expect, it } from 'vitest';
import type { Outcome } from '../../loadtest/outcome.ts';
import { mustsOf, passes } from '../../loadtest/outcome.ts';
import { loadTestChart, loadTestReport } from '../../loadtest/report.ts';
import { createTally } from '../../loadtest/tally.ts';
import { judge, judgeRight, loadTargets } from '../../loadtest/targets.ts';

const machine = {
  cpu: 'A CPU',
  cores: 2,
  memoryBytes: 8e9,
  platform: 'linux x64',
  node: 'v20.19.0',
  date: '2025-03-04T05:06:07.000Z',
};

const samples = [0, 1000, 2000].map((atMs) => ({ atMs, serverBytes: 8e7, engineBytes: 6e8 }));
const memory = {
  samples,
  serverPeakBytes: 9e7,
  enginePeakBytes: 7e8,
  serverBytes: 8e7,
  engineBytes: 6e8,
  restarts: 0,
};
const served = { label: 'soak', memory, errorLines: [], exitStatus: 0 };

function outcomeOf(change: { readonly factor: number; readonly exitStatus?: number }): Outcome {
  const tally = createTally();
  tally.answered({
    firstTokenMs: 12,
    firstPieceMs: undefined,
    totalMs: 50,
    completionTokens: 3,
    source: 'host',
  });
  const phase = tally.figures({ name: 'single, short', clients: 1, length: 'short' });
  return {
    name: 'soak',
    report: {
      explanation: 'What was done.',
      phases: [phase],
      tables: [],
      musts: judgeRight('soak', [phase]),
      targets: [judge(loadTargets.mixedGap, change.factor)],
      memory: samples,
    },
    error: undefined,
    served: [{ ...served, exitStatus: change.exitStatus ?? 0 }],
  };
}

describe('a run of the load test', () => {
  const good = outcomeOf({ factor: 2 });

  it('passes unless a target is missed, and a quick run judges none', () => {
    const missed = outcomeOf({ factor: 3.5 });
    expect(passes([good], { targets: true })).toBe(true);
    expect(passes([good, missed], { targets: true })).toBe(false);
    expect(passes([good, missed], { targets: false })).toBe(true);
  });

  it('fails when a scenario could not be run, and when a server ended badly', () => {
    const broken: Outcome = { name: 'cold', report: undefined, error: 'no', served: [] };
    expect(passes([good, broken], { targets: false })).toBe(false);
    const ended = outcomeOf({ factor: 2, exitStatus: 1 });
    expect(passes([ended], { targets: false })).toBe(false);
    const failed = mustsOf(ended).filter(({ passed }) => !passed);
    expect(failed.map(({ what }) => what)).toEqual(['soak: servers that ended badly']);
  });
});

describe('the report', () => {
  const outcomes = [outcomeOf({ factor: 3.5 })];
  const run = { machine, model: 'reader-mini', flags: '--only soak', quick: false, outcomes };

  it('has the figures, the targets with their reasons, and what was not measured', () => {
    const broken: Outcome = { name: 'cold', report: undefined, error: 'it broke', served: [] };
    const text = loadTestReport({ ...run, outcomes: [...outcomes, broken] }, 'report.svg');
    expect(text).toContain('`npm run loadtest -- --only soak`');
    expect(text).toContain('| single, short | 1 | 1 |');
    expect(text).toContain('3.50 × | ≤ 3.00 × | MISS');
    expect(text).toContain(loadTargets.mixedGap.reason);
    expect(text).toContain('![Throughput and time to first token](report.svg)');
    expect(text).toContain('**Not measured: it broke**');
    expect(text).not.toContain('NaN');
  });

  it('shows no target that a quick run does not judge', () => {
    expect(loadTestReport({ ...run, quick: true }, 'x.svg')).not.toContain('MISS');
  });

  it('has a chart for light and dark pages, without a value that is no number', () => {
    const chart = loadTestChart({ ...run, model: 'a & b' });
    expect(chart).toContain('prefers-color-scheme: dark');
    expect(chart).toContain('<title>Load test of a &amp; b</title>');
    expect(chart).toContain('Resident memory during soak');
    expect(chart).not.toMatch(/NaN|Infinity|undefined/);
    for (const tag of ['svg', 'g', 'text']) {
      const count = (pattern: RegExp): number => [...chart.matchAll(pattern)].length;
      expect(count(new RegExp(`<${tag}[ >]`, 'g'))).toBe(count(new RegExp(`</${tag}>`, 'g')));
    }
  });

  it('can be drawn before anything was measured', () => {
    expect(loadTestChart({ ...run, outcomes: [] })).not.toMatch(/NaN|Infinity/);
  });
});
