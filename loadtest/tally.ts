import { percentiles, type Percentiles } from './percentiles.ts';

/** What one request came to. Durations are milliseconds. */
export interface Shot {
  /** As the answer's `timings.firstTokenMs`; undefined where the interface does not tell. */
  readonly firstTokenMs: number | undefined;
  /** Until the first piece of a stream was here; undefined without a stream. */
  readonly firstPieceMs: number | undefined;
  /** Until the whole answer was here. */
  readonly totalMs: number;
  readonly completionTokens: number;
  /** Where the context was found; undefined where the interface does not tell. */
  readonly source: string | undefined;
}

/** An answer that differs from the one given when the server was quiet. */
export interface Mismatch {
  readonly query: string;
  readonly expected: string;
  readonly got: string;
}

/** Counts of something by name. */
export type Counts = Readonly<Record<string, number>>;

/** Which phase of a scenario is counted. */
export interface Phase {
  /** For example `reuse, short`. */
  readonly name: string;
  readonly clients: number;
  /** Which answers of *single* these compare with; left out if with neither. */
  readonly length?: 'short' | 'long';
}

/** What a phase of a scenario measured. */
export interface PhaseFigures extends Phase {
  /** From the first request to the last answer that was counted. */
  readonly seconds: number;
  readonly answers: number;
  readonly requestsPerSecond: number;
  /** Decoded tokens, of whole answers. */
  readonly tokensPerSecond: number;
  readonly firstTokenMs: Percentiles;
  readonly firstPieceMs: Percentiles;
  readonly totalMs: Percentiles;
  /** Between the pieces of a stream. */
  readonly gapMs: Percentiles;
  readonly wrong: number;
  /** The first few wrong answers. */
  readonly mismatches: readonly Mismatch[];
  /** What should not happen, by error code. */
  readonly errors: Counts;
  /** Refusals that tell the client when to come back, by error code. */
  readonly refused: Counts;
  /** Answers by the tier their context was found in. */
  readonly sources: Counts;
}

/** Collects what the requests of one phase came to. */
export interface Tally {
  answered(shot: Shot): void;
  gaps(gapsMs: readonly number[]): void;
  wrong(mismatch: Mismatch): void;
  failed(code: string): void;
  /** A refusal by one of `refusalCodes`; without Retry-After it is a failure. */
  refused(code: string, hasRetryAfter: boolean): void;
  /** Answers counted so far. */
  answers(): number;
  /** Requests counted so far, whatever they came to. */
  requests(): number;
  figures(phase: Phase): PhaseFigures;
}

/** Codes with which a server may turn away more than it can do. */
export const refusalCodes: ReadonlySet<string> = new Set([
  'overloaded',
  'rate_limited',
  'quota_exceeded',
]);

/** Enough to see what went wrong. */
const keptMismatches = 5;

/** Begins to count; the clock starts now. */
export function createTally(): Tally {
  const shots: Shot[] = [];
  const gapsMs: number[] = [];
  const mismatches: Mismatch[] = [];
  const errors = new Map<string, number>();
  const refusals = new Map<string, number>();
  const startMs = performance.now();
  let lastMs = startMs;
  let wrongCount = 0;
  let requestCount = 0;
  const failed = (code: string): void => {
    requestCount++;
    count(errors, code);
  };
  return {
    answered(shot) {
      requestCount++;
      lastMs = performance.now();
      shots.push(shot);
    },
    gaps(more) {
      for (const gapMs of more) gapsMs.push(gapMs);
    },
    wrong(mismatch) {
      wrongCount++;
      if (mismatches.length < keptMismatches) mismatches.push(mismatch);
    },
    failed,
    refused(code, hasRetryAfter) {
      if (!hasRetryAfter) return failed(`${code} without Retry-After`);
      requestCount++;
      count(refusals, code);
    },
    answers: () => shots.length,
    requests: () => requestCount,
    figures(phase) {
      const seconds = (lastMs - startMs) / 1000;
      const tokens = shots.reduce((sum, shot) => sum + shot.completionTokens, 0);
      const sources = new Map<string, number>();
      for (const { source } of shots) if (source !== undefined) count(sources, source);
      return {
        ...phase,
        seconds,
        answers: shots.length,
        requestsPerSecond: shots.length / seconds,
        tokensPerSecond: tokens / seconds,
        firstTokenMs: percentilesOf(shots, ({ firstTokenMs }) => firstTokenMs),
        firstPieceMs: percentilesOf(shots, ({ firstPieceMs }) => firstPieceMs),
        totalMs: percentilesOf(shots, ({ totalMs }) => totalMs),
        gapMs: percentiles(gapsMs),
        wrong: wrongCount,
        mismatches,
        errors: Object.fromEntries(errors),
        refused: Object.fromEntries(refusals),
        sources: Object.fromEntries(sources),
      };
    },
  };
}

/** All counts together. */
export function totalOf(counts: Counts): number {
  return Object.values(counts).reduce((sum, value) => sum + value, 0);
}

function count(counts: Map<string, number>, name: string): void {
  counts.set(name, (counts.get(name) ?? 0) + 1);
}

function percentilesOf(
  shots: readonly Shot[],
  figure: (shot: Shot) => number | undefined,
): Percentiles {
  return percentiles(shots.map(figure).filter((value) => value !== undefined));
}
