import { once } from 'node:events';
import { Agent, request as httpRequest, type IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseSse } from '../src/client/sse.ts';
import { ReadonceError } from '../src/core/errors.ts';
import { problemCode, type Ask, type Job, type Reply } from './asks.ts';
import { countProblem, countReply, createFeed, whenOver, type Load } from './load.ts';
import type { Tally } from './tally.ts';

/** Streams read by hand: autocannon waits for whole bodies, and never leaves early. */

/** How a client of a stream behaves. */
export interface StreamOptions {
  /** Default: a connection of its own. */
  readonly agent?: Agent;
  /** Before each read, milliseconds; what has come meanwhile waits in the connection. */
  readonly pauseMs?: () => number;
  /** Closes the connection after so many pieces. */
  readonly leaveAfter?: number;
  /** Closes the connection, whatever it is waiting for. */
  readonly signal?: AbortSignal;
}

/** What became of a stream. Times are milliseconds. */
export type StreamResult =
  | {
      readonly kind: 'answer';
      readonly reply: Reply;
      /** All pieces: should be the reply's text. */
      readonly joined: string;
      /** `performance.now` of the request and of each piece. */
      readonly startMs: number;
      readonly pieceTimesMs: readonly number[];
      readonly totalMs: number;
    }
  | { readonly kind: 'problem'; readonly code: string; readonly hasRetryAfter: boolean }
  | { readonly kind: 'left' };

/** Asks for a stream and reads it to its end, or as long as the options say. */
export async function streamOnce(
  url: string,
  ask: Ask,
  options: StreamOptions = {},
): Promise<StreamResult> {
  const { agent, signal } = options;
  const startMs = performance.now();
  const request = httpRequest(new URL(ask.path, url), {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'text/event-stream' },
    agent: agent ?? false,
    ...(signal === undefined ? {} : { signal }),
  });
  // What happens after the end is nobody's concern, but unheard it would end the process.
  request.on('error', () => undefined);
  request.end(JSON.stringify({ ...ask.body, stream: true }));
  try {
    const [response] = (await once(request, 'response')) as [IncomingMessage];
    if (response.statusCode !== 200) return await readRefusal(response);
    return await readStream(response, ask, { ...options, startMs });
  } catch (error) {
    if (signal?.aborted === true) return { kind: 'left' };
    return { kind: 'problem', code: codeOf(error), hasRetryAfter: false };
  } finally {
    if (agent === undefined) request.destroy();
  }
}

function codeOf(error: unknown): string {
  if (error instanceof ReadonceError) return error.code;
  const code = error instanceof Error && 'code' in error ? error.code : error;
  return `connection: ${String(code)}`;
}

async function readRefusal(response: IncomingMessage): Promise<StreamResult> {
  let text = '';
  for await (const part of response.setEncoding('utf8')) text += String(part);
  const code = problemCode(text) ?? `status ${response.statusCode}`;
  return { kind: 'problem', code, hasRetryAfter: response.headers['retry-after'] !== undefined };
}

async function readStream(
  response: IncomingMessage,
  ask: Ask,
  options: StreamOptions & { readonly startMs: number },
): Promise<StreamResult> {
  const { startMs, leaveAfter = Number.POSITIVE_INFINITY } = options;
  const readEvent = ask.streamReader();
  const pieceTimesMs: number[] = [];
  let joined = '';
  let result: StreamResult | undefined;
  for await (const event of parseSse(slowed(response, options.pauseMs))) {
    const step = readEvent(event);
    if (step.kind === 'piece') {
      pieceTimesMs.push(performance.now());
      joined += step.text;
    }
    if (step.kind === 'problem') result ??= { ...step, hasRetryAfter: false };
    if (step.kind === 'reply') {
      const totalMs = performance.now() - startMs;
      result ??= { kind: 'answer', reply: step.reply, joined, startMs, pieceTimesMs, totalMs };
    }
    if (pieceTimesMs.length >= leaveAfter) return { kind: 'left' };
  }
  return result ?? { kind: 'problem', code: 'stream broken off', hasRetryAfter: false };
}

async function* slowed(
  response: IncomingMessage,
  pauseMs: (() => number) | undefined,
): AsyncGenerator<Uint8Array> {
  for await (const part of response) {
    if (pauseMs !== undefined) await sleep(pauseMs());
    yield part as Uint8Array;
  }
}

/** Milliseconds between pieces, one fewer than pieces. */
export function gapsOf(pieceTimesMs: readonly number[]): readonly number[] {
  return pieceTimesMs.slice(1).map((timeMs, i) => timeMs - (pieceTimesMs[i] ?? timeMs));
}

/** Counts what became of a stream; one that was left is not counted. */
export function countStream(tally: Tally, job: Job, result: StreamResult): void {
  if (result.kind === 'problem') countProblem(tally, result);
  if (result.kind !== 'answer') return;
  const { reply, joined, startMs, pieceTimesMs, totalMs } = result;
  const firstMs = pieceTimesMs[0];
  const firstPieceMs = firstMs === undefined ? undefined : firstMs - startMs;
  tally.gaps(gapsOf(pieceTimesMs));
  // A reply is only as right as the pieces it was streamed in.
  countReply(tally, job, { reply: { ...reply, text: joined }, totalMs, firstPieceMs });
}

/** What else there is to a load of streams. */
export interface StreamLoadOptions {
  /** Gets the times of each answer's pieces. */
  readonly onAnswer?: (pieceTimesMs: readonly number[]) => void;
  /** Read what has begun to its end, so that the longest gaps are not the ones left out. */
  readonly letFinish?: boolean;
}

/** Puts a load of streams on a server. */
export async function stream(
  load: Load,
  { onAnswer, letFinish = false }: StreamLoadOptions = {},
): Promise<void> {
  const { url, clients, jobs, bounds, tally } = load;
  const agent = new Agent({ keepAlive: true, maxSockets: clients });
  const over = new AbortController();
  const end = (): void => over.abort();
  const stopClock = whenOver(load, end);
  const next = createFeed(jobs);
  const client = async (): Promise<void> => {
    // A signal of its own: many listeners on one would look like a leak.
    const signal = AbortSignal.any([over.signal]);
    while (!signal.aborted) {
      const job = next();
      const result = await streamOnce(url, job, letFinish ? { agent } : { agent, signal });
      if (result.kind === 'left') return;
      countStream(tally, job, result);
      if (result.kind === 'answer') onAnswer?.(result.pieceTimesMs);
      if (tally.requests() >= bounds.requests) end();
    }
  };
  try {
    await Promise.all(Array.from({ length: clients }, client));
  } finally {
    stopClock();
    agent.destroy();
  }
}
