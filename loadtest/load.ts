import { isExpected, type Job, type Reply } from './asks.ts';
import { refusalCodes, type Tally } from './tally.ts';

/** When a load ends, whichever comes first; what runs then is cancelled and not counted. */
export interface Bounds {
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
