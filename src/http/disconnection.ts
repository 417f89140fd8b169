import type { Context, MiddlewareHandler } from 'hono';
import { ReadonceError } from '../core/errors.ts';
import type { AppEnv } from './app-env.ts';

/** What proxies log for a request whose client has gone: nobody is left to get an answer. */
const clientClosedRequest = 499;

/** A body that ended before all of it had come: nothing but its connection can end it so. */
export class BrokenTransfer extends Error {
  constructor(cause: unknown) {
    super('Expected the whole body but its connection broke off.', { cause });
    this.name = 'BrokenTransfer';
  }
}

/**
 * Whether something was thrown since the client has gone: the HTTP adapter aborts the request's
 * signal, with a text as the reason, and whoever waits throws that. What else goes wrong meanwhile
 * is not hidden by it.
 */
export function isDisconnection(c: Context<AppEnv>, thrown: unknown): boolean {
  if (thrown instanceof BrokenTransfer) return true;
  const { signal } = c.req.raw;
  return signal.aborted && thrown === signal.reason && !(thrown instanceof ReadonceError);
}

/** What is left of a request whose client has gone: a status for the log and the metrics. */
export function disconnectedResponse(): Response {
  return new Response(null, { status: clientClosedRequest });
}

/**
 * Takes what is thrown and is no `Error`, which the framework would let through to the adapter,
 * past the problem that every error is. Handlers of `Error`s ask `isDisconnection` themselves.
 */
export function disconnection(): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    try {
      await next();
    } catch (thrown) {
      if (thrown instanceof Error) throw thrown;
      if (!isDisconnection(c, thrown)) {
        throw new Error(`Expected an Error to be thrown but got ${String(thrown)}`, {
          cause: thrown,
        });
      }
      c.res = disconnectedResponse();
    }
  };
}
