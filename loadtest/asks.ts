import { problemError } from '../src/client/problem.ts';
import type { SseEvent } from '../src/client/sse.ts';
import type { Answer } from '../src/client/types.ts';

/** What came back, in the words of no interface. */
export interface Reply {
  readonly text: string;
  readonly finishReason: string;
  readonly completionTokens: number;
  readonly firstTokenMs: number | undefined;
  readonly source: string | undefined;
}

/** What one event of a stream brings. */
export type StreamStep =
  | { readonly kind: 'piece'; readonly text: string }
  | { readonly kind: 'reply'; readonly reply: Reply }
  | { readonly kind: 'problem'; readonly code: string }
  | { readonly kind: 'nothing' };

/** A request that asks something, and how its answer is read. */
export interface Ask {
  /** The question, for messages. */
  readonly query: string;
  readonly path: string;
  readonly body: Readonly<Record<string, unknown>>;
  /** Reads the body of a 200. */
  read(body: unknown): Reply;
  /** Makes a reader of the events of one stream. */
  streamReader(): (event: SseEvent) => StreamStep;
}

/** An ask whose right answer is known: what the server said when it was quiet. */
export interface Job extends Ask {
  readonly expected: Pick<Reply, 'text' | 'finishReason' | 'completionTokens'>;
}

export interface Question {
  readonly contextId: string;
  readonly query: string;
  readonly maxTokens: number;
}

/** A greedy query of a stored context. */
export function contextAsk({ contextId, query, maxTokens }: Question): Ask {
  return {
    query,
    path: `/contexts/${contextId}/query`,
    body: { query, maxTokens, temperature: 0 },
    read: (body) => replyOf(body as Answer),
    streamReader: () => readContextEvent,
  };
}

/** Whether an answer is, character for character, the one that was given in quiet. */
export function isExpected({ expected }: Job, reply: Reply): boolean {
  return (
    reply.text === expected.text &&
    reply.finishReason === expected.finishReason &&
    reply.completionTokens === expected.completionTokens
  );
}

/** Asks once. @throws ReadonceError with the code of the server's problem */
export async function askOnce(url: string, ask: Ask): Promise<Reply> {
  const response = await fetch(new URL(ask.path, url), {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(ask.body),
  });
  if (!response.ok) throw await problemError(response);
  return ask.read(await response.json());
}

/** Asks one question after another and takes the answers for right. */
export async function askQuietly(url: string, asks: readonly Ask[]): Promise<readonly Job[]> {
  const jobs: Job[] = [];
  for (const ask of asks) jobs.push({ ...ask, expected: await askOnce(url, ask) });
  return jobs;
}

function replyOf({ answer, finishReason, usage, timings, cache }: Answer): Reply {
  return {
    text: answer,
    finishReason,
    completionTokens: usage.completionTokens,
    firstTokenMs: timings.firstTokenMs,
    source: cache.source,
  };
}

function readContextEvent({ event, data }: SseEvent): StreamStep {
  if (event === 'token') {
    const { text }: { readonly text: string } = JSON.parse(data);
    return { kind: 'piece', text };
  }
  if (event === 'done') return { kind: 'reply', reply: replyOf(JSON.parse(data)) };
  if (event === 'error') return { kind: 'problem', code: problemCode(data) ?? 'unknown' };
  return { kind: 'nothing' };
}

/** The code of a problem, or of an OpenAI-compatible error; undefined if it is neither. */
export function problemCode(text: string): string | undefined {
  try {
    const problem: { readonly code?: unknown; readonly error?: { readonly code?: unknown } } =
      JSON.parse(text);
    const code = problem.code ?? problem.error?.code;
    return typeof code === 'string' ? code : undefined;
  } catch {
    return undefined;
  }
}
