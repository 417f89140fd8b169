import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { getRequestListener } from '@hono/node-server';
import { assert } from '../core/assert.ts';
import { ReadonceError } from '../core/errors.ts';
import type { App } from './app-env.ts';
import { problemMediaType, problemOf } from './problem.ts';

/** How long running answers may take to finish once the server is told to close. */
export const defaultShutdownMs = 10_000;
/** How often connections that became idle are looked for while closing. */
const idleCheckMs = 20;

export interface ListenOptions {
  readonly app: Pick<App, 'fetch'>;
  /** Address or host name to listen on. */
  readonly host: string;
  /** 0 takes a free one. */
  readonly port: number;
  /** Default `defaultShutdownMs`. */
  readonly shutdownMs?: number;
}

export interface HttpServer {
  readonly url: string;
  readonly port: number;
  /**
   * Stops accepting, lets running answers finish for at most `shutdownMs`, then closes what is left.
   * Idempotent.
   */
  close(): Promise<void>;
}

/** Serves `app`; resolves when it listens. Rejects with Node's error if it cannot (port taken, …). */
export async function listen(options: ListenOptions): Promise<HttpServer> {
  let closing: Promise<void> | undefined;
  const handle = getRequestListener(options.app.fetch, { errorHandler: badRequest });
  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    if (closing !== undefined) response.shouldKeepAlive = false;
    void handle(request, response);
  });
  server.on('clientError', refuseMalformed);
  await start(server, options);
  const address = server.address();
  assert(typeof address === 'object' && address !== null, 'expected the address of a TCP server');
  const { port } = address;
  const host = options.host.includes(':') ? `[${options.host}]` : options.host;
  return {
    url: `http://${host}:${port}`,
    port,
    close: () => (closing ??= drain(server, options.shutdownMs ?? defaultShutdownMs)),
  };
}

function start(server: Server, { host, port }: ListenOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host, port }, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

async function drain(server: Server, shutdownMs: number): Promise<void> {
  const closed = new Promise<boolean>((resolve) => {
    server.close(() => resolve(true));
  });
  const deadlineMs = performance.now() + shutdownMs;
  while (performance.now() < deadlineMs) {
    server.closeIdleConnections();
    if (await Promise.race([closed, sleep(idleCheckMs, false)])) return;
  }
  server.closeAllConnections();
  await closed;
}

/** What the adapter refuses before the app sees it: a request target or Host that is no URL. */
function badRequest(): Response {
  const problem = malformed();
  return new Response(JSON.stringify(problem), {
    status: problem.status,
    headers: { 'Content-Type': problemMediaType },
  });
}

/** What Node's parser refuses: bytes that are no HTTP, or headers that are too long. */
function refuseMalformed(_error: Error, socket: Duplex): void {
  if (!socket.writable) {
    socket.destroy();
    return;
  }
  const body = JSON.stringify(malformed());
  socket.end(
    `HTTP/1.1 400 Bad Request\r\nContent-Type: ${problemMediaType}\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
}

function malformed() {
  const error = new ReadonceError(
    'invalid_argument',
    'Expected a well-formed HTTP request with headers of at most 16 KiB but got something else.',
  );
  return problemOf(error, { instance: '', requestId: '' });
}
