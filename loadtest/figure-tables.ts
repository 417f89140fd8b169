import type { Table } from '../eval/markdown.ts';
import { formatBytes, formatCount, formatMs } from '../src/cli/format.ts';
import type { Outcome } from './outcome.ts';
import type { Percentiles } from './percentiles.ts';
import type { Counts, PhaseFigures } from './tally.ts';
import { formatFactor } from './targets.ts';

/** The figures of all phases as tables. What was not measured is a dash. */

const none = '–';

/** What phases are compared with, as far as it was measured in this run. */
export interface References {
  readonly short: PhaseFigures | undefined;
  readonly long: PhaseFigures | undefined;
  /** The phase of the baseline with the most requests a second. */
  readonly baseline: PhaseFigures | undefined;
}

/** All phases of a run, in order. */
export function phasesOf(outcomes: readonly Outcome[]): readonly PhaseFigures[] {
  return outcomes.flatMap(({ report }) => report?.phases ?? []);
}

export function referencesOf(outcomes: readonly Outcome[]): References {
  const named = (name: string): PhaseFigures | undefined =>
    phasesOf(outcomes).find((phase) => phase.name === name);
  const baselines = outcomes.find(({ name }) => name === 'baseline')?.report?.phases ?? [];
  return {
    short: named('single, short'),
    long: named('single, long'),
    baseline: baselines.toSorted((a, b) => b.requestsPerSecond - a.requestsPerSecond)[0],
  };
}

/** What a phase is compared with in *single*. */
export function singleOf(
  { length }: PhaseFigures,
  { short, long }: References,
): PhaseFigures | undefined {
  if (length === undefined) return undefined;
  return length === 'short' ? short : long;
}

export function throughputTable(phases: readonly PhaseFigures[], references: References): Table {
  return {
    title: 'Throughput',
    headers: [
      'phase',
      'clients',
      'answers',
      'seconds',
      'requests/s',
      '/ single',
      '/ baseline',
      'tokens/s',
      '/ single',
    ],
    rows: phases.map((phase) => {
      const single = singleOf(phase, references);
      const baseline = phase.length === 'short' ? references.baseline : undefined;
      return [
        phase.name,
        formatCount(phase.clients),
        formatCount(phase.answers),
        phase.seconds.toFixed(1),
        number(phase.requestsPerSecond),
        factor(phase.requestsPerSecond, single?.requestsPerSecond),
        factor(phase.requestsPerSecond, baseline?.requestsPerSecond),
        number(phase.tokensPerSecond),
        factor(phase.tokensPerSecond, single?.tokensPerSecond),
      ];
    }),
  };
}

export function latencyTable(phases: readonly PhaseFigures[], { baseline }: References): Table {
  return {
    title: 'Time to first token, whole answers, and gaps between streamed tokens (p50, p95, p99)',
    headers: [
      'phase',
      'first token, as the server says',
      'baseline / it',
      'first piece, as a client sees it',
      'whole answer',
      'gap',
    ],
    rows: phases.map((phase) => [
      phase.name,
      milliseconds(phase.firstTokenMs),
      factor(baseline?.firstPieceMs.p50, phase.firstTokenMs.p50),
      milliseconds(phase.firstPieceMs),
      milliseconds(phase.totalMs),
      milliseconds(phase.gapMs),
    ]),
  };
}

export function rightTable(phases: readonly PhaseFigures[]): Table {
  return {
    title: 'Right answers',
    headers: ['phase', 'answers', 'wrong', 'refused with Retry-After', 'errors'],
    rows: phases.map(({ name, answers, wrong, refused, errors }) => [
      name,
      formatCount(answers),
      formatCount(wrong),
      counts(refused),
      counts(errors),
    ]),
  };
}

export function memoryTable(outcomes: readonly Outcome[]): Table {
  return {
    title: 'Resident memory, mapped weights included',
    headers: ['server', 'server: peak', 'at the end', 'engine: peak', 'at the end'],
    rows: outcomes.flatMap(({ served }) =>
      served.map(({ label, memory }) => [
        label,
        formatBytes(memory.serverPeakBytes),
        formatBytes(memory.serverBytes),
        formatBytes(memory.enginePeakBytes),
        formatBytes(memory.engineBytes),
      ]),
    ),
  };
}

/** `12.3 ms, 45 ms, 67 ms` */
export function milliseconds({ p50, p95, p99 }: Percentiles): string {
  return Number.isNaN(p50) ? none : [p50, p95, p99].map(formatMs).join(', ');
}

function number(value: number): string {
  if (!Number.isFinite(value)) return none;
  return value < 10 ? value.toFixed(2) : value.toFixed(1);
}

function factor(value: number | undefined, of: number | undefined): string {
  const quotient = (value ?? Number.NaN) / (of ?? Number.NaN);
  return Number.isFinite(quotient) ? formatFactor(quotient) : none;
}

function counts(all: Counts): string {
  const entries = Object.entries(all);
  if (entries.length === 0) return '0';
  return entries.map(([code, count]) => `${code} ${formatCount(count)}`).join(', ');
}
