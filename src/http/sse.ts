import type { Context } from 'hono';
import { streamSSE } from 'hono/streaming';
import { asReadonceError, type ReadonceError } from '../core/errors.ts';
import { untilAborted } from '../core/until-aborted.ts';
import type { AppEnv } from './app-env.ts';
import { clientError, problemOf } from './problem.ts';

/** A server-sent event; `data` is sent as JSON. */
export interface ServerEvent {
  readonly event: string;
  readonly data: unknown;
}

/** How a stream is kept open, and who hears that it failed. */
export interface EventStreamOptions {
  /** Between two comments. */
  readonly heartbeatMs: number;
  /** Gets what was thrown after the response began; the client gets an `error` event. */
  onError(error: ReadonceError): void;
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
      if (c.req.raw.signal.aborted) return;
      const error = clientError(thrown);
      options.onError(asReadonceError(thrown));
      await stream.writeSSE(encode({ event: 'error', data: problemOf(error, request) }));
    } finally {
      clearInterval(heartbeat);
      ended();
    }
  });
}

function encode({ event, data }: ServerEvent): { readonly event: string; readonly data: string } {
  return { event, data: JSON.stringify(data) };
}
