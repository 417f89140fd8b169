import { mkdirSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { basename, dirname } from 'node:path';
import type { Check } from '../eval/check.ts';
import { describeMachine } from '../eval/machine.ts';
import { formatTable } from '../src/cli/format.ts';
import { asReadonceError, ReadonceError } from '../src/core/errors.ts';
import {
  parseLoadTestOptions,
  scenarioNeeds,
  type LoadTestOptions,
  type ScenarioName,
} from './options.ts';
import { mustsOf, passes, type Outcome } from './outcome.ts';
import { scenarios } from './registry.ts';
import { loadTestChart, loadTestReport, type LoadTestRun } from './report.ts';
import type { ScenarioReport, ScenarioSetup } from './scenario.ts';
import { fullSizes, quickSizes } from './sizes.ts';
import { openStage } from './stage.ts';

/** `npm run loadtest`: report, chart and figures in files, a short table on stdout. */

async function loadTest(options: LoadTestOptions, flags: string): Promise<boolean> {
  const { model, quick, out } = options;
  const machine = describeMachine();
  const outcomes: Outcome[] = [];
  const earlier = new Map<ScenarioName, ScenarioReport>();
  progress(`Starting ${model}`);
  const stage = await openStage(model);
  try {
    stage.takeServed();
    const sizes = quick ? quickSizes : fullSizes;
    const soakMs = options.minutes * 60_000;
    const setup: ScenarioSetup = { stage, sizes, soakMs, earlier, progress };
    for (const name of options.scenarios) {
      progress(name);
      const outcome = await runScenario(name, setup);
      if (outcome.report !== undefined) earlier.set(name, outcome.report);
      outcomes.push(outcome);
      // Written after every scenario: a long run that is cut short leaves what it measured.
      writeReport(out, { machine, model, flags, quick, outcomes });
    }
  } finally {
    await stage.close();
  }
  process.stdout.write(summary(outcomes, options));
  return passes(outcomes, { targets: !quick });
}

/** Whatever goes wrong in a scenario, the others can still be measured. */
async function runScenario(name: ScenarioName, setup: ScenarioSetup): Promise<Outcome> {
  const { earlier, stage } = setup;
  let report: ScenarioReport | undefined;
  let error: string | undefined;
  const missing = scenarioNeeds[name].filter((need) => !earlier.has(need));
  if (missing.length > 0) {
    error = `it is compared with ${missing.join(', ')}, which could not be measured`;
  } else {
    try {
      report = await scenarios[name](setup);
    } catch (thrown) {
      error = asReadonceError(thrown).message;
      if (!(thrown instanceof ReadonceError)) console.error(thrown);
    }
  }
  if (error !== undefined) progress(`  ${name}: ${error}`);
  return { name, report, error, served: stage.takeServed() };
}

function writeReport(out: string, run: LoadTestRun): void {
  const chart = out.replace(/\.md$/, '.svg');
  mkdirSync(dirname(out), { recursive: true });
  writeFileSync(out, loadTestReport(run, basename(chart)));
  writeFileSync(chart, loadTestChart(run));
  writeFileSync(out.replace(/\.md$/, '.json'), `${JSON.stringify(run, undefined, 1)}\n`);
}

/** Every figure that is judged, those that failed marked, and where the rest is. */
function summary(outcomes: readonly Outcome[], { quick, out }: LoadTestOptions): string {
  const row = ({ what, measured, target, passed }: Check): readonly string[] => [
    passed ? 'pass' : 'MISS',
    what,
    measured,
    target,
  ];
  const rows = outcomes.flatMap((outcome) => {
    const { name, report, error } = outcome;
    const failed = error === undefined ? [] : [['FAIL', name, error, '']];
    const musts = mustsOf(outcome).filter(({ passed }) => !passed);
    const right =
      failed.length + musts.length === 0 ? [['pass', `${name}: all answers right`, '', '']] : [];
    return [
      ...failed,
      ...musts.map(row),
      ...right,
      ...(quick ? [] : (report?.targets ?? []).map(row)),
    ];
  });
  return `${formatTable(rows)}Written to ${out}${quick ? '; a quick run, speed not judged' : ''}\n`;
}

function progress(text: string): void {
  process.stderr.write(`${text}\n`);
}

// An ordinary exit, so that the server is stopped and its folder removed.
for (const name of ['SIGINT', 'SIGTERM'] as const) {
  process.once(name, () => process.exit(128 + constants.signals[name]));
}

try {
  const args = process.argv.slice(2);
  const passed = await loadTest(parseLoadTestOptions(args), args.join(' '));
  process.exitCode = passed ? 0 : 1;
} catch (error) {
  if (!(error instanceof ReadonceError)) throw error;
  process.stderr.write(`loadtest: ${error.message}\n`);
  process.exitCode = 1;
}
