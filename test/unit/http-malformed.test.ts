import { PassThrough } from 'node:stream';
import { expect, test } from 'vitest';
import { refuseUnparsed } from '../../src/http/malformed.ts';

function refusal(code: string, hasBegun = false): string | null {
  const socket = new PassThrough();
  refuseUnparsed(Object.assign(new Error('from the parser'), { code }), socket, hasBegun);
  expect(socket.writable).toBe(false);
  return socket.destroyed ? null : String(socket.read());
}

test('a request that does not arrive in time is told so, and what is no HTTP that', () => {
  expect(refusal('ERR_HTTP_REQUEST_TIMEOUT')).toMatch(
    /^HTTP\/1\.1 408 Request Timeout\r\n[^{]*Connection: close\r\n\r\n\{.*"code":"request_timeout"/,
  );
  expect(refusal('HPE_INVALID_METHOD')).toMatch(/^HTTP\/1\.1 400 .*"code":"invalid_argument"/s);
});

test('nothing is written into a response that has begun', () => {
  expect(refusal('ERR_HTTP_REQUEST_TIMEOUT', true)).toBeNull();
});
