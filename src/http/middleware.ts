import type { MiddlewareHandler } from 'hono';
import { routePath } from 'hono/route';
import { ReadonceError } from '../core/errors.ts';
import type { AppDeps, AppEnv } from './app-env.ts';

/** Methods that get a label of their own; anything else a client makes up is "other". */
const knownMethods = new Set(['GET', 'HEAD', 'PUT', 'POST', 'PATCH', 'DELETE', 'OPTIONS']);
/** Longest path in a log line. */
const maxLoggedPath = 200;

/** Notes when the request arrived. First of all, so that nothing before it goes uncounted. */
export function arrival({ clock }: Pick<AppDeps, 'clock'>): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    c.set('arrivedAtMs', clock.monotonicMs());
    await next();
  };
}

/**
 * Counts every request and writes a log line for it, when its response begins (a stream goes on
 * after that). Neither has the query string, which may hold text.
 */
export function observation(
  deps: Pick<AppDeps, 'clock' | 'logger' | 'metrics'>,
): MiddlewareHandler<AppEnv> {
  const { clock, logger, metrics } = deps;
  return async (c, next) => {
    await next();
    const durationMs = clock.monotonicMs() - c.var.arrivedAtMs;
    const method = knownMethods.has(c.req.method) ? c.req.method : 'other';
    const route = routeOf(routePath(c, -1));
    const { status } = c.res;
    metrics.httpRequests.inc({ method, route, status: String(status) });
    metrics.httpRequestSeconds.observe({ method, route }, durationMs / 1000);
    const code = c.var.problemCode;
    if (code !== undefined) metrics.errors.inc({ code });
    logger.info(
      {
        requestId: c.var.requestId,
        method,
        path: c.req.path.slice(0, maxLoggedPath),
        status,
        durationMs: Math.round(durationMs * 10) / 10,
        ...(code === undefined ? {} : { code }),
      },
      'request',
    );
  };
}

/** Refuses a query string whose escapes are no UTF-8, which would otherwise be taken literally. */
export function validQueryString(): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    const start = c.req.url.indexOf('?');
    if (start !== -1 && !isDecodable(c.req.url.slice(start))) {
      throw new ReadonceError(
        'invalid_argument',
        'Expected percent-encoded UTF-8 for the query string but got other bytes.',
      );
    }
    await next();
  };
}

function isDecodable(text: string): boolean {
  try {
    decodeURIComponent(text);
    return true;
  } catch {
    return false;
  }
}

function routeOf(pattern: string): string {
  return pattern.includes('*') ? 'unmatched' : pattern;
}
