import type { Duplex } from 'node:stream';
import { ReadonceError } from '../core/errors.ts';
import { problemOf } from './problem.ts';
import { newRequestId, requestIdHeader } from './request-id.ts';
import { problemMediaType } from './schemas/problem.ts';

/** What Node says of a request whose headers or body did not come in time. */
const timeoutCode = 'ERR_HTTP_REQUEST_TIMEOUT';

/** What the adapter refuses before the app sees it: a request target or Host that is no URL. */
export function badRequest(): Response {
  const { status, headers, body } = refusalOf(malformed());
  return new Response(body, { status, headers });
}

/**
 * Answers what Node's parser refuses, and closes the connection: bytes that are no HTTP, headers
 * that are too long, and requests that do not arrive in time. Nothing is answered to a client that
 * is gone, or into a response that has begun.
 */
export function refuseUnparsed(error: Error, socket: Duplex, hasBegun: boolean): void {
  if (!socket.writable || hasBegun) {
    socket.destroy();
    return;
  }
  const isLate = 'code' in error && error.code === timeoutCode;
  const { status, headers, body } = refusalOf(isLate ? late() : malformed());
  const reason = isLate ? 'Request Timeout' : 'Bad Request';
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(`HTTP/1.1 ${status} ${reason}\r\n${lines.join('')}Connection: close\r\n\r\n${body}`);
}

/** A problem with the id and the headers that the app would have given it. */
function refusalOf(error: ReadonceError) {
  const requestId = newRequestId();
  const body = JSON.stringify(problemOf(error, { instance: '', requestId }));
  const headers: Readonly<Record<string, string>> = {
    'Content-Type': problemMediaType,
    'Content-Length': String(Buffer.byteLength(body)),
    [requestIdHeader]: requestId,
  };
  return { status: error.status, headers, body };
}

function malformed(): ReadonceError {
  return new ReadonceError(
    'invalid_argument',
    'Expected a well-formed HTTP request with headers of at most 16 KiB but got something else.',
  );
}

function late(): ReadonceError {
  return new ReadonceError(
    'request_timeout',
    'Expected the whole request in time but only a part of it came. Send it again, over a faster ' +
      'line or in smaller parts.',
  );
}
