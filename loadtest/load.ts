import { isExpected, type Job, type Reply } from './asks.ts';
import { refusalCodes, type Tally } from './tally.ts';

/** When a load ends, whichever comes first; what runs then is cancelled and not counted. */
export interface Bounds {
  /** While a slow server has not answered every client, at most `patience` times as long. */
  readonly ms: number;
  readonly requests: number;
  /** Ends it from outside. */
  readonly signal?: AbortSignal;
}

/** Clients that ask and ask again as soon as they are answered. */
export interface Load {
  readonly url: string;
  readonly clients: number;
  /** Shared out among the clients, again and again. At least one. */
  readonly jobs: readonly Job[];
  readonly bounds: Bounds;
  readonly tally: Tally;
}

/** So many times longer than wanted may a load go on to have figures at all. */
export const patience = 5;
/** With so many answers, or one for each client, there are figures. */
const enoughAnswers = 16;
const pollMs = 25;

/** Calls `end` when the time of a load is over; the function it returns stops the clock. */
export function whenOver({ bounds, clients, tally }: Load, end: () => void): () => void {
  const { ms, requests, signal } = bounds;
  const startMs = performance.now();
  const enough = Math.min(clients, enoughAnswers);
  const timer = setInterval(() => {
    const passedMs = performance.now() - startMs;
    const late = passedMs >= ms && (tally.answers() >= enough || passedMs >= ms * patience);
    if (late || tally.requests() >= requests) end();
  }, pollMs);
  signal?.addEventListener('abort', end);
  if (signal?.aborted === true) end();
  return () => {
    clearInterval(timer);
    signal?.removeEventListener('abort', end);
  };
}

/** Endless: every job in turn, whoever asks. */
export function createFeed(jobs: readonly Job[]): () => Job {
  let next = 0;
  return () => jobs[next++ % jobs.length] as Job;
}

/** Counts a whole answer, and whether it is the right one. */
export function countReply(
  tally: Tally,
  job: Job,
  answered: {
    readonly reply: Reply;
    readonly totalMs: number;
    readonly firstPieceMs?: number | undefined;
  },
): void {
  const { reply, totalMs, firstPieceMs } = answered;
  const { completionTokens, firstTokenMs, source } = reply;
  tally.answered({ completionTokens, firstTokenMs, source, totalMs, firstPieceMs });
  if (isExpected(job, reply)) return;
  tally.wrong({ query: job.query, expected: job.expected.text, got: reply.text });
}

/** Counts an answer that is a problem. */
export function countProblem(
  tally: Tally,
  problem: { readonly code: string; readonly hasRetryAfter: boolean },
): void {
  if (refusalCodes.has(problem.code)) tally.refused(problem.code, problem.hasRetryAfter);
  else tally.failed(problem.code);
}
