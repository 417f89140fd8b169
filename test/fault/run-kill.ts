/**
 * `npm run test:kill -- [--rounds N] [--seed N] [--recipes N] [--thread PERCENT]`: the kill test at
 * length, with that many of the servers storing by the writing thread. Prints a table for
 * docs/benchmarks.md; ends with status 1 if any promise was broken.
 */
import { parseArgs } from 'node:util';
import { ReadonceError } from '../../src/core/errors.ts';
import { runKillRounds, type KillReport } from './kill-harness.ts';
import { killTable } from './kill-table.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '200' },
    seed: { type: 'string', default: String(Date.now() % 2 ** 31) },
    recipes: { type: 'string', default: '24' },
    thread: { type: 'string', default: '50' },
  },
});

function wholeNumber(name: keyof typeof values): number {
  const number = Number(values[name]);
  if (Number.isSafeInteger(number) && number >= 0) return number;
  throw new ReadonceError(
    'invalid_argument',
    `Expected a whole number for --${name} but got ${values[name]}.`,
  );
}

function progress({ rounds, violations, durationMs, seed }: KillReport): void {
  if (rounds % 10 !== 0 && violations.length === 0) return;
  const seconds = Math.round(durationMs / 1000);
  process.stderr.write(`seed ${seed}, ${rounds} kills, ${seconds} s\n`);
  for (const { kind, round, detail } of violations.slice(shown)) {
    process.stderr.write(`round ${round}: ${kind}: ${detail}\n`);
  }
  shown = violations.length;
}

let shown = 0;
const report = await runKillRounds({
  rounds: wholeNumber('rounds'),
  seed: wholeNumber('seed'),
  recipes: wholeNumber('recipes'),
  threadShare: Math.min(100, wholeNumber('thread')) / 100,
  onRound: progress,
});
process.stdout.write(killTable(report));
if (report.violations.length > 0) {
  process.stderr.write(report.log);
  process.exitCode = 1;
}
