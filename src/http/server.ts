import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { getRequestListener } from '@hono/node-server';
import { assert } from '../core/assert.ts';
import type { App } from './app-env.ts';
import { badRequest, refuseUnparsed } from './malformed.ts';

/** How long running answers may take to finish once the server is told to close. */
export const defaultShutdownMs = 10_000;

/** How long a request may take to arrive: large files come over slow lines. */
const maxRequestMs = 3_600_000;

/** How long a client may take nothing of a response that waits for it. */
export const defaultMaxStalledMs = 60_000;

/** What to serve, and where. Who may reach the address was decided by the configuration. */
export interface ListenOptions {
  readonly app: Pick<App, 'fetch'>;
  /** Address or host name to listen on. */
  readonly host: string;
  /** 0 takes a free one. */
  readonly port: number;
  /** Default `defaultShutdownMs`. */
  readonly shutdownMs?: number;
  /** Default `defaultMaxStalledMs`. */
  readonly maxStalledMs?: number;
}

/** A server that listens, on the port it got. */
export interface HttpServer {
  readonly url: string;
  readonly port: number;
  /**
   * Stops accepting, lets running answers finish for at most `shutdownMs`, then closes what is
   * left. Idempotent.
   */
  close(): Promise<void>;
}

/** Serves `app`; resolves when it listens, rejects with Node's error if it cannot (port taken). */
export async function listen(options: ListenOptions): Promise<HttpServer> {
  const handle = getRequestListener(options.app.fetch, { errorHandler: badRequest });
  const server = createServer(
    { requestTimeout: maxRequestMs },
    (request: IncomingMessage, response: ServerResponse) => {
      void handle(request, response);
    },
  );
  const connections = new Connections(server);
  server.timeout = options.maxStalledMs ?? defaultMaxStalledMs;
  server.on('timeout', (socket: Socket) => {
    if (connections.isDead(socket)) socket.destroy();
  });
  server.on('clientError', (error, socket) => {
    refuseUnparsed(error, socket, connections.isAnswering(socket));
  });
  await start(server, options);
  const address = server.address();
  assert(typeof address === 'object' && address !== null, 'expected the address of a TCP server');
  const host = options.host.includes(':') ? `[${options.host}]` : options.host;
  let closed: Promise<void> | undefined;
  return {
    url: `http://${host}:${address.port}`,
    port: address.port,
    close: () => (closed ??= drain(server, connections, options.shutdownMs ?? defaultShutdownMs)),
  };
}

/**
 * Knows which connections have a request running. Node's own account takes one that has never sent
 * a request, which browsers open in advance, for busy.
 */
class Connections {
  /** Responses that are not complete, on each open connection. */
  readonly #running = new Map<Socket, Set<ServerResponse>>();
  /** Those that have had a request: Node itself ends one whose first does not come. */
  readonly #used = new WeakSet<Socket>();
  #closing = false;

  constructor(server: Server) {
    server.on('connection', (socket: Socket) => {
      this.#running.set(socket, new Set());
      socket.once('close', () => this.#running.delete(socket));
    });
    server.prependListener('request', ({ socket }: IncomingMessage, response: ServerResponse) => {
      const running = this.#running.get(socket);
      this.#used.add(socket);
      running?.add(response);
      response.once('close', () => {
        running?.delete(response);
        if (this.#closing && running?.size === 0) socket.destroySoon();
      });
    });
  }

  /** Closes each connection as soon as nothing runs on it. */
  closeWhenIdle(): void {
    this.#closing = true;
    for (const [socket, running] of this.#running) if (running.size === 0) socket.destroySoon();
  }

  /**
   * Whether nobody reads what waits to be sent on a connection on which nothing has moved for a
   * while, or nothing more is asked on it. One that waits for its answer lives on.
   */
  isDead(socket: Socket): boolean {
    const isIdle = this.#used.has(socket) && this.#running.get(socket)?.size === 0;
    return socket.writableLength > 0 || isIdle;
  }

  /** Whether a response has begun on a connection and is not complete. */
  isAnswering(socket: Duplex): boolean {
    const running = socket instanceof Socket ? this.#running.get(socket) : undefined;
    return [...(running ?? [])].some(({ headersSent }) => headersSent);
  }
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

async function drain(server: Server, connections: Connections, shutdownMs: number): Promise<void> {
  const closed = new Promise<void>((resolve) => {
    server.close(() => resolve());
  });
  connections.closeWhenIdle();
  const deadline = setTimeout(() => server.closeAllConnections(), shutdownMs);
  await closed;
  clearTimeout(deadline);
}
