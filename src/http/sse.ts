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
  /** Gets what was thrown after the response began; the client gets an `error` event. */
  onError(error: ReadonceError): void;
  /** How the client is told; default: an event named `error` with the problem. */
  readonly errorEvent?: (problem: Problem) => ServerEvent;
}

/**
 * Answers with an event stream. The response begins when the first event is there, so that an error
 * before it is an ordinary problem (thrown); a later one becomes an `error` event. Comments keep an
 * idle stream open. When the request's signal aborts, the stream ends, by an `error` event if the
 * client is still there; the source is to end by itself.
 */
export async function eventStream(
  c: Context<AppEnv>,
  source: AsyncIterator<ServerEvent, undefined>,
  options: EventStreamOptions,
): Promise<Response> {
  const { signal } = c.var;
  let next = await untilAborted(source.next(), signal);
  const ended = c.var.beginStream();
  const request = { instance: c.req.path, requestId: c.var.requestId };
  return streamSSE(c, async (stream) => {
    const heartbeat = setInterval(() => void stream.write(': heartbeat\n\n'), options.heartbeatMs);
    try {
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
      clearInterval(heartbeat);
      ended();
    }
  });
}

function encode({ event, data }: ServerEvent): SSEMessage {
  const text = typeof data === 'string' ? data : JSON.stringify(data);
  return event === undefined ? { data: text } : { event, data: text };
}
