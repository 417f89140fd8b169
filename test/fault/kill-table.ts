import type { KillReport } from './kill-harness.ts';
import type { Violation } from './ledger.ts';

/** A report as a Markdown table. */
export function killTable(report: KillReport): string {
  const count = (...kinds: readonly Violation['kind'][]): number =>
    report.violations.filter(({ kind }) => kinds.includes(kind)).length;
  const { kills } = report;
  const rows: readonly (readonly [string, number | string])[] = [
    ['kill -9 of the server', kills.server],
    ['kill -9 of the engine', kills.engine],
    ['kill -9 of both', kills.both],
    ['of them with all writes by the writing thread', report.threadKills],
    ['batches that it was given', report.threadBatches],
    ['restarts', report.restarts],
    ['of them while the processes before were still ending', report.overlappingRestarts],
    ['stores seen half-written before a restart', report.tornStores],
    ['contexts checked after restarts', report.contextsChecked],
    ['answers compared', report.answersCompared],
    ['wrong answers', count('wrong answer')],
    ['contexts lost', count('lost')],
    ['deleted contexts that came back', count('came back', 'stranger')],
    ['half-written contexts visible', count('half-written')],
    ['usage that differs from the disk', count('usage')],
    ['marks, pieces or files left behind', count('leak')],
    ['other errors', count('error')],
    ['pages leaked, bytes', report.leakedBytes],
    ['data file at the end, bytes', report.fileBytes],
    ['seed', report.seed],
    ['duration, s', Math.round(report.durationMs / 1000)],
  ];
  const lines = rows.map(([name, value]) => `| ${name} | ${value} |`);
  return ['| kill test | |', '| --- | ---: |', ...lines, ''].join('\n');
}
