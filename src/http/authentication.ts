import { timingSafeEqual } from 'node:crypto';
import type { MiddlewareHandler } from 'hono';
import { hashApiKey, type ApiKey } from '../core/api-key.ts';
import { ReadonceError } from '../core/errors.ts';
import type { AppEnv } from './app-env.ts';

/** What anyone may ask: whether the process is up. */
export const openPath = '/healthz';

/**
 * Says whose a request is (`tenant`). Without keys everybody is tenant ''. With keys, whoever sends
 * none of them is refused, whatever was asked for and whatever was wrong: `unauthenticated`.
 */
export function authentication(keys: readonly ApiKey[]): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    c.set('tenant', '');
    if (keys.length > 0 && c.req.path !== openPath) {
      c.set('tenant', tenantOf(keys, c.req.header('Authorization')));
    }
    await next();
  };
}

/** @throws ReadonceError `unauthenticated` */
function tenantOf(keys: readonly ApiKey[], authorization: string | undefined): string {
  const sent = /^Bearer +([!-~]+) *$/i.exec(authorization ?? '')?.[1];
  const sha256 = hashApiKey(sent ?? '');
  let found: ApiKey | undefined;
  // All are looked at, each in constant time, so that the time says nothing of any of them.
  for (const key of keys) if (timingSafeEqual(key.sha256, sha256)) found = key;
  if (found !== undefined && sent !== undefined) return found.tenant;
  throw new ReadonceError(
    'unauthenticated',
    'Expected "Authorization: Bearer <key>" with a key of this server but got something else. ' +
      'Ask whoever runs the server for a key.',
  );
}
