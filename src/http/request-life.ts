import type { MiddlewareHandler } from 'hono';
import { deadlineExceeded } from '../core/deadline.ts';
import type { ReadonceError } from '../core/errors.ts';
import { invalidArgument } from '../service/invalid-argument.ts';
import type { AppEnv } from './app-env.ts';
import { Disconnection } from './disconnection.ts';

/** The header in which a client says how long it will wait, in ms. */
export const timeoutHeader = 'X-Request-Timeout-Ms';

/** An hour: longer than any answer takes, and no timer has to count further. */
export const maxTimeoutMs = 3_600_000;

/**
 * Gives every request a `signal` that aborts, with a `ReadonceError` as its reason, when the
 * client has gone or when the time is up that it allows in `X-Request-Timeout-Ms`. An answer that
 * is not complete by then becomes `deadline_exceeded`, at once, whether its work heeds the signal
 * or not. A handler that answers with a stream calls `beginStream`; from then on ending in time is
 * its own matter.
 */
export function requestLife(): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    const life = new RequestLife(c.req.raw.signal, timeoutOf(c.req.header(timeoutHeader)));
    let streams = false;
    c.set('signal', life.signal);
    c.set('beginStream', () => {
      streams = true;
      return () => life.close();
    });
    try {
      await Promise.race([life.tooLate, orError(next(), c.req.raw.signal)]);
      if (life.late !== undefined && c.res.ok) {
        // It came too late. Hono would mix its headers with those of the problem.
        c.res.body?.cancel().catch(() => undefined);
        c.res = undefined;
        throw life.late;
      }
      // Nobody reads that stream, and so nothing else would end it.
      if (streams && c.req.method === 'HEAD') c.res.body?.cancel().catch(() => undefined);
    } finally {
      if (!streams) life.close();
    }
  };
}

/** @throws ReadonceError `invalid_argument` */
function timeoutOf(header: string | undefined): number | undefined {
  if (header === undefined) return undefined;
  const timeoutMs = /^\d{1,7}$/.test(header) ? Number(header) : 0;
  if (timeoutMs >= 1 && timeoutMs <= maxTimeoutMs) return timeoutMs;
  throw invalidArgument(
    timeoutHeader,
    `Expected a whole number from 1 to ${maxTimeoutMs} for ${timeoutHeader} but got ` +
      `${JSON.stringify(header.slice(0, 40))}.`,
  );
}

/**
 * Hono takes only errors for errors: whatever else is thrown, as the adapter's reason that a client
 * has gone is, would get past its error handler and break the response.
 */
async function orError(handled: Promise<void>, client: AbortSignal): Promise<void> {
  try {
    await handled;
  } catch (thrown) {
    if (thrown instanceof Error) throw thrown;
    if (client.aborted && thrown === client.reason) throw new Disconnection(thrown);
    throw new Error(`Expected an Error to be thrown but got ${String(thrown)}`, { cause: thrown });
  }
}

/** Until when a request's work is wanted. Holds a timer, and a listener of the client's signal. */
class RequestLife {
  /** Rejects once the time is up, as soon as those who heed the signal have had their say. */
  readonly tooLate: Promise<never>;
  readonly #controller = new AbortController();
  readonly #client: AbortSignal;
  readonly #timer: NodeJS.Timeout | undefined;
  #late: ReadonceError | undefined;

  constructor(client: AbortSignal, timeoutMs: number | undefined) {
    this.#client = client;
    client.addEventListener('abort', this.#leave);
    if (client.aborted) this.#leave();
    let reject: (error: ReadonceError) => void = () => undefined;
    this.tooLate = new Promise<never>((_, rejectLate) => {
      reject = rejectLate;
    });
    // It may fire when nobody waits any more.
    this.tooLate.catch(() => undefined);
    if (timeoutMs === undefined) return;
    this.#timer = setTimeout(() => {
      const error = deadlineExceeded(timeoutMs);
      this.#late = error;
      this.#controller.abort(error);
      setImmediate(() => reject(error));
    }, timeoutMs);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Why the answer comes too late; undefined while there is time. */
  get late(): ReadonceError | undefined {
    return this.#late;
  }

  /** The signal aborts no more. */
  close(): void {
    clearTimeout(this.#timer);
    this.#client.removeEventListener('abort', this.#leave);
  }

  /** The adapter gives a text for a reason, which nobody expects to be thrown. */
  readonly #leave = (): void => {
    this.#controller.abort(new Disconnection(this.#client.reason));
  };
}
