import { atLeast, atMost, type Check } from '../eval/check.ts';
import { formatBytes, formatCount, formatShare } from '../src/cli/format.ts';
import { totalOf, type PhaseFigures } from './tally.ts';

/** What a figure should be, and why. */
export interface LoadTarget {
  readonly what: string;
  readonly bound: number;
  readonly compare: typeof atLeast;
  readonly format: (value: number) => string;
  readonly reason: string;
}

/** Every target of the load test. Ratios are of figures of one run. */
export const loadTargets = {
  reuseThroughput: {
    what: 'reuse, short: requests a second / single',
    bound: 2,
    compare: atLeast,
    format: formatFactor,
    reason:
      'Questions of many clients about a few contexts are computed together: weights are read ' +
      "once a step for all of them. A question's own tokens are computed alone, which is most of " +
      'a short answer and bounds the gain.',
  },
  reuseDecoding: {
    what: 'reuse, long: decoded tokens a second / single',
    bound: 4,
    compare: atLeast,
    format: formatFactor,
    reason:
      'With 64 tokens an answer, steps are most of the work, and a step of 16 costs little more ' +
      'than a step of one.',
  },
  reuseBaseline: {
    what: 'reuse, short: requests a second / baseline',
    bound: 50,
    compare: atLeast,
    format: formatFactor,
    reason:
      'What the project is for: a document of 4,000 tokens is not read again for every question. ' +
      "A question has about a hundredth of the document's tokens.",
  },
  mixedGap: {
    what: 'mixed: p95 gap between streamed tokens while ingesting / quiet',
    bound: 3,
    compare: atMost,
    format: formatFactor,
    reason: 'Ingestion runs in bounded pieces between steps, so a long document stalls no answer.',
  },
  coldFromDisk: {
    what: 'cold: share of answers whose context was read from disk',
    bound: 0.2,
    compare: atLeast,
    format: formatShare,
    reason: 'With less, the pool held nearly everything and the scenario measured nothing.',
  },
  serverFiles: {
    what: 'clients: files the server has open after a round, more than before it',
    bound: 0,
    compare: atMost,
    format: formatCount,
    reason: 'A connection that is gone must not hold a file; there is nothing to keep.',
  },
  engineFiles: {
    what: 'clients: files the engine has open after a round, more than before it',
    bound: 0,
    compare: atMost,
    format: formatCount,
    reason: 'The engine opens its files when it starts.',
  },
  serverMemory: {
    what: "clients: the server's memory after a round, more than before it",
    bound: 32e6,
    compare: atMost,
    format: formatBytes,
    reason:
      'The least of the rounds after the first. A leak of 32 kB a client would show; less is ' +
      'within what a garbage-collected heap varies by from one moment to another.',
  },
  engineMemory: {
    what: "clients: the engine's memory after a round, more than before it",
    bound: 64e6,
    compare: atMost,
    format: formatBytes,
    reason:
      'A tail of a context that is never given back has 45 kB a token; a thousand of them would ' +
      'show many times over. The pool of contexts may still move.',
  },
  soakServer: {
    what: "soak: growth of the server's memory over the second half",
    bound: 0.05,
    compare: atMost,
    format: formatShare,
    reason: 'Flat: by the fitted line, less than what sampling a collected heap varies by.',
  },
  soakEngine: {
    what: "soak: growth of the engine's memory over the second half",
    bound: 0.05,
    compare: atMost,
    format: formatShare,
    reason: 'Flat, as above; the contexts that are put are deleted again.',
  },
} as const satisfies Readonly<Record<string, LoadTarget>>;

/** A figure beside its target. NaN never passes. */
export function judge(target: LoadTarget, value: number): Check {
  return target.compare(target.bound, { what: target.what, value, format: target.format });
}

/** Nothing may go wrong, however great the load: this is no matter of the machine. */
export function judgeRight(name: string, phases: readonly PhaseFigures[]): readonly Check[] {
  const format = formatCount;
  const answers = Math.min(...phases.map((phase) => phase.answers));
  const wrong = phases.reduce((sum, phase) => sum + phase.wrong, 0);
  const errors = phases.reduce((sum, phase) => sum + totalOf(phase.errors), 0);
  return [
    atLeast(1, { what: `${name}: answers of the phase with the fewest`, value: answers, format }),
    atMost(0, { what: `${name}: wrong answers`, value: wrong, format }),
    atMost(0, { what: `${name}: errors`, value: errors, format }),
  ];
}

/** As `judgeRight`, where no refusal is expected either. */
export function judgeAllAnswered(name: string, phases: readonly PhaseFigures[]): readonly Check[] {
  const refused = phases.reduce((sum, phase) => sum + totalOf(phase.refused), 0);
  return [
    ...judgeRight(name, phases),
    atMost(0, { what: `${name}: refused`, value: refused, format: formatCount }),
  ];
}

/** `12.34` → `12.3 ×` */
export function formatFactor(factor: number): string {
  return `${factor.toFixed(factor < 10 ? 2 : 1)} ×`;
}
