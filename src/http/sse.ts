import type { Context } from 'hono';
import { streamSSE, type SSEMessage } from 'hono/streaming';
import { asReadonceError, type ReadonceError } from '../core/errors.ts';
import { untilAborted } from '../core/until-aborted.ts';
import type { AppEnv } from './app-env.ts';
import { isDisconnection } from './disconnection.ts';
import { clientError, problemOf } from './problem.ts';
import type { Problem } from './schemas/problem.ts';

/** A server-sent event. */
export interface ServerEvent {
  /** Left out: an event without a name. */
  readonly event?: string;
  /** Sent as JSON, but for text, which is sent as it is. */
  readonly data: unknown;
}

/** How a stream is kept open, and who hears that it failed. */
export interface EventStreamOptions {
  /** Between two comments. */
  readonly heartbeatMs: number;
  /** How long the response waits for the first event; 0: only for one that is there already. */
  readonly beginAfterMs: number;
  /** Gets what was thrown after the response began; the client gets an `error` event. */
  onError(error: ReadonceError): void;
  /** How the client is told; default: an event named `error` with the problem. */
  readonly errorEvent?: (problem: Problem) => ServerEvent;
}

const heartbeat = ': heartbeat\n\n';

/**
 * Answers with an event stream. The response begins when the first event is there, so that an error
 * before it is an ordinary problem (thrown), or with a comment when that takes too long: proxies
 * and clients give up on a silent server. A later error becomes an `error` event. Comments keep an
 * idle stream open. When the request's signal aborts, the stream ends, by an `error` event if the
 * client is still there; the source is to end by itself.
 */
export async function eventStream(
  c: Context<AppEnv>,
  source: AsyncIterator<ServerEvent, undefined>,
  options: EventStreamOptions,
): Promise<Response> {
  const { signal } = c.var;
  const first = untilAborted(source.next(), signal);
  const early = await withinMs(first, options.beginAfterMs);
  const ended = c.var.beginStream();
  const request = { instance: c.req.path, requestId: c.var.requestId };
  return streamSSE(c, async (stream) => {
    const timer = setInterval(() => void stream.write(heartbeat), options.heartbeatMs);
    try {
      if (early === undefined) await stream.write(heartbeat);
      let next = early ?? (await first);
      while (!next.done) {
        await stream.writeSSE(encode(next.value));
        next = await untilAborted(source.next(), signal);
      }
    } catch (thrown) {
      if (isDisconnection(thrown)) return;
      options.onError(asReadonceError(thrown));
      const problem = problemOf(clientError(thrown), request);
      await stream.writeSSE(
        encode(options.errorEvent?.(problem) ?? { event: 'error', data: problem }),
      );
    } finally {
      clearInterval(timer);
      ended();
    }
  });
}

/** What a promise settles to; undefined if that takes longer. */
async function withinMs<T>(promise: Promise<T>, ms: number): Promise<T | undefined> {
  // Nobody waits for it while the response begins.
  promise.catch(() => undefined);
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(resolve, ms, undefined);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

function encode({ event, data }: ServerEvent): SSEMessage {
  const text = typeof data === 'string' ? data : JSON.stringify(data);
  return event === undefined ? { data: text } : { event, data: text };
}
