import { randomUUID } from 'node:crypto';

/** The header of every response that names the request, and of requests that bring a name along. */
export const requestIdHeader = 'X-Request-Id';

/** A name for a request that brought none: `req_` and 32 hex digits. */
export function newRequestId(): string {
  return `req_${randomUUID().replaceAll('-', '')}`;
}
