import type { Context } from 'hono';
import { AsyncQueue } from '../service/async-queue.ts';
import type { AppDeps, AppEnv } from './app-env.ts';
import type { Problem } from './schemas/problem.ts';
import { eventStream, type ServerEvent } from './sse.ts';

/** An answer that is told as it grows, and how. */
export interface AnswerStream<T> {
  /** Asks; `onText` gets the pieces of the answer in order. */
  ask(onText: (text: string) => void): Promise<T>;
  textEvents(text: string): readonly ServerEvent[];
  /** The last events. */
  doneEvents(answer: T): readonly ServerEvent[];
  /** Default: an event named `error` with the problem. */
  readonly errorEvent?: (problem: Problem) => ServerEvent;
}

/** What the response to a question needs. */
export type AnswerDeps = Pick<AppDeps, 'limits' | 'logger'>;

/** Answers with events as the answer grows. */
export function streamedAnswer<T>(
  c: Context<AppEnv>,
  stream: AnswerStream<T>,
  { limits, logger }: AnswerDeps,
): Promise<Response> {
  const { errorEvent } = stream;
  return eventStream(c, answerEvents(stream), {
    heartbeatMs: limits.heartbeatMs,
    beginAfterMs: limits.maxSilentMs,
    onError: (error) =>
      logger.warn({ err: error, code: error.code, requestId: c.var.requestId }, 'answer failed'),
    ...(errorEvent === undefined ? {} : { errorEvent }),
  });
}

/** Answers with the answer's object, or with `token` events and `done`, which has the object. */
export async function answerResponse(
  c: Context<AppEnv>,
  {
    stream,
    ask,
  }: {
    readonly stream: boolean | undefined;
    readonly ask: (onText: (text: string) => void) => Promise<object>;
  },
  deps: AnswerDeps,
): Promise<Response> {
  if (stream !== true) return c.json(await ask(() => undefined), 200);
  const events = {
    ask,
    textEvents: (text: string) => [{ event: 'token', data: { text } }],
    doneEvents: (answer: object) => [{ event: 'done', data: answer }],
  };
  return streamedAnswer(c, events, deps);
}

/** The events of a streamed answer; no more of them wait than an answer has tokens. */
function answerEvents<T>(stream: AnswerStream<T>): AsyncQueue<ServerEvent> {
  const queue = new AsyncQueue<ServerEvent>();
  const push = (events: readonly ServerEvent[]): void => {
    for (const event of events) queue.push(event);
  };
  const run = async (): Promise<void> => {
    try {
      push(stream.doneEvents(await stream.ask((text) => push(stream.textEvents(text)))));
      queue.end();
    } catch (error) {
      queue.fail(error);
    }
  };
  void run();
  return queue;
}
