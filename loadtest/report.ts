import { checksTable, type Check } from '../eval/check.ts';
import { machineLine, type Machine } from '../eval/machine.ts';
import { markdownTable } from '../eval/markdown.ts';
import { formatBytes, formatMs } from '../src/cli/format.ts';
import { barPanel, linePanel, rangePanel, svgDocument, type Panel } from './chart.ts';
import {
  latencyTable,
  memoryTable,
  milliseconds,
  phasesOf,
  referencesOf,
  rightTable,
  throughputTable,
} from './figure-tables.ts';
import { mustsOf, type Outcome } from './outcome.ts';
import { loadTargets, type LoadTarget } from './targets.ts';

/** A run of the load test. */
export interface LoadTestRun {
  readonly machine: Machine;
  readonly model: string;
  /** Flags it was started with. */
  readonly flags: string;
  readonly quick: boolean;
  readonly outcomes: readonly Outcome[];
}

/** @param chart name of the chart's file, next to the report */
export function loadTestReport(run: LoadTestRun, chart: string): string {
  const { machine, model, flags, quick, outcomes } = run;
  const phases = phasesOf(outcomes);
  const references = referencesOf(outcomes);
  return [
    '# Load test\n',
    `\`npm run loadtest${flags === '' ? '' : ` -- ${flags}`}\`, model \`${model}\`. ` +
      `${machineLine(machine)}.${quick ? ' A quick run: speed and memory are not judged.' : ''}\n`,
    'Answers are greedy, and right if they equal, character for character, what the server said ' +
      'when it was quiet. Ratios are of figures of this run. The server is a process of its own on ' +
      'the same machine, and so are the clients, which take their part of its cores.\n',
    `![Throughput and time to first token](${chart})\n`,
    markdownTable(throughputTable(phases, references)),
    markdownTable(latencyTable(phases, references)),
    markdownTable(rightTable(phases)),
    markdownTable(memoryTable(outcomes)),
    ...outcomes.map((outcome) => scenarioText(outcome, quick)),
  ].join('\n');
}

/** The chart of a run, SVG: throughput, time to first token and, where it was kept, memory. */
export function loadTestChart({ model, outcomes }: LoadTestRun): string {
  const phases = phasesOf(outcomes).filter(({ answers }) => answers > 0);
  const throughput = phases.map(({ name, requestsPerSecond }) => ({
    label: name,
    value: requestsPerSecond,
    text: `${requestsPerSecond.toFixed(requestsPerSecond < 10 ? 2 : 1)}/s`,
  }));
  const firstToken = phases.map(({ name, firstTokenMs, firstPieceMs }) => {
    const places = Number.isNaN(firstTokenMs.p50) ? firstPieceMs : firstTokenMs;
    const values = [places.p50, places.p95, places.p99];
    return { label: name, values, text: milliseconds(places) };
  });
  return svgDocument(`Load test of ${model}`, [
    barPanel('Answers a second', throughput),
    rangePanel('Time to first token: p50, p95, p99', firstToken),
    ...outcomes.flatMap(memoryPanels),
  ]);
}

function memoryPanels({ name, report }: Outcome): readonly Panel[] {
  const samples = report?.memory;
  if (samples === undefined) return [];
  const startMs = samples[0]?.atMs ?? 0;
  const series = (['server', 'engine'] as const).map((process) => ({
    name: process,
    points: samples.map((sample) => ({ x: sample.atMs - startMs, y: sample[`${process}Bytes`] })),
  }));
  const axes = { series, formatX: formatTime, formatY: formatBytes };
  return [linePanel(`Resident memory during ${name}`, axes)];
}

function formatTime(ms: number): string {
  return ms < 60_000 ? formatMs(ms) : `${(ms / 60_000).toFixed(1)} min`;
}

function scenarioText(outcome: Outcome, quick: boolean): string {
  const { name, report, error } = outcome;
  const targets = quick ? [] : (report?.targets ?? []);
  const notes = [
    ...(error === undefined ? [] : [`**Not measured: ${error}**\n`]),
    ...(report === undefined
      ? []
      : [`${report.explanation}\n`, ...report.tables.map(markdownTable)]),
  ];
  const checks = [...mustsOf(outcome), ...targets];
  return [
    `## ${name}\n`,
    ...notes,
    markdownTable(checksTable(checks)),
    ...reasons(targets),
    ...troubles(outcome),
  ].join('\n');
}

function reasons(checks: readonly Check[]): readonly string[] {
  const targets: readonly LoadTarget[] = Object.values(loadTargets);
  const lines = checks.flatMap(({ what }) => {
    const target = targets.find((one) => one.what === what);
    return target === undefined ? [] : [`- ${what}: ${target.reason}`];
  });
  return lines.length === 0 ? [] : [`${lines.join('\n')}\n`];
}

/** The first wrong answers and lines of the server's log, for whoever looks for the defect. */
function troubles({ report, served }: Outcome): readonly string[] {
  const wrong = (report?.phases ?? []).flatMap(({ name, mismatches }) =>
    mismatches.map((mismatch) => `${name}: ${JSON.stringify(mismatch)}`),
  );
  const logged = served.flatMap(({ errorLines }) => errorLines);
  const lines = [...wrong, ...logged];
  return lines.length === 0 ? [] : [`\`\`\`\n${lines.join('\n')}\n\`\`\`\n`];
}
