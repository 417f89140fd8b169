import type { ApiKey } from '../../src/core/api-key.ts';
import type { Clock } from '../../src/core/clock.ts';
import { createApp } from '../../src/http/app.ts';
import { defaultHttpLimits, type HttpLimits } from '../../src/http/limits.ts';
import { listen, type HttpServer } from '../../src/http/server.ts';
import { createLogger, type Logger } from '../../src/observability/logger.ts';
import { createMetrics, type Metrics } from '../../src/observability/metrics.ts';
import { defaultCompression } from '../../src/service/compression.ts';
import { defaultServiceLimits, type ServiceLimits } from '../../src/service/limits.ts';
import { Service } from '../../src/service/service.ts';
import { FakeEngine } from './fake-engine.ts';
import { FakeStore } from './fake-store.ts';

/** A clock whose wall time a test moves; durations are real. */
export class TestClock implements Clock {
  #aheadMs = 0;

  nowMs(): number {
    return Date.now() + this.#aheadMs;
  }

  monotonicMs(): number {
    return performance.now();
  }

  advance(ms: number): void {
    this.#aheadMs += ms;
  }
}

export interface TestService {
  readonly service: Service;
  readonly engine: FakeEngine;
  readonly store: FakeStore;
  readonly clock: TestClock;
  readonly metrics: Metrics;
  readonly logger: Logger;
  readonly logLines: string[];
}

/** The service over a fake engine and store. */
export function createTestService(limits: Partial<ServiceLimits> = {}) {
  const store = new FakeStore();
  const engine = new FakeEngine(store);
  const clock = new TestClock();
  engine.nowMs = () => clock.nowMs();
  const metrics = createMetrics();
  const logLines: string[] = [];
  const logger = createLogger({
    level: 'info',
    stream: { write: (line: string) => void logLines.push(line) },
  });
  const service = new Service({
    engine,
    store,
    defaults: defaultCompression,
    limits: { ...defaultServiceLimits, ...limits },
    clock,
    logger,
    metrics,
  });
  return { service, engine, store, clock, metrics, logger, logLines };
}

export interface TestServerOptions {
  readonly service?: Partial<ServiceLimits>;
  readonly http?: Partial<HttpLimits>;
  readonly shutdownMs?: number;
  readonly maxStalledMs?: number;
  readonly apiKeys?: readonly ApiKey[];
}

export interface TestServer extends TestService {
  readonly http: HttpServer;
  request(path: string, init?: RequestInit): Promise<Response>;
  /** PUTs a JSON body. */
  put(body: unknown, headers?: Readonly<Record<string, string>>): Promise<Response>;
  /** POSTs a JSON body to a context's query. */
  query(id: string, body: unknown, signal?: AbortSignal): Promise<Response>;
  /** POSTs a JSON body. */
  post(path: string, body: unknown, init?: RequestInit): Promise<Response>;
  close(): Promise<void>;
}

/** The whole HTTP stack on a free port of this machine, over a fake engine and store. */
export async function startTestServer(options: TestServerOptions = {}): Promise<TestServer> {
  const parts = createTestService(options.service);
  const app = createApp({
    ...parts,
    apiKeys: options.apiKeys ?? [],
    limits: { ...defaultHttpLimits, ...options.http },
  });
  const http = await listen({
    app,
    host: '127.0.0.1',
    port: 0,
    shutdownMs: options.shutdownMs ?? 10_000,
    ...(options.maxStalledMs === undefined ? {} : { maxStalledMs: options.maxStalledMs }),
  });
  const request = (path: string, init: RequestInit = {}) => fetch(`${http.url}${path}`, init);
  const json = { 'Content-Type': 'application/json' };
  const post = (path: string, body: unknown, init: RequestInit = {}) =>
    request(path, { method: 'POST', headers: json, body: JSON.stringify(body), ...init });
  return {
    ...parts,
    http,
    request,
    put: (body, headers = {}) =>
      request('/contexts', {
        method: 'PUT',
        headers: { ...json, ...headers },
        body: JSON.stringify(body),
      }),
    query: (id, body, signal) =>
      post(`/contexts/${id}/query`, body, signal === undefined ? {} : { signal }),
    post,
    close: async () => {
      await parts.service.close();
      await http.close();
    },
  };
}

/** Waits until `condition` holds; the test's own time limit is the bound. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2));
}

export interface ReceivedEvent {
  readonly event: string;
  readonly data: Record<string, unknown>;
}

/** Reads server-sent events one by one; comments come as events named "comment". */
export async function* readEvents(response: Response): AsyncGenerator<ReceivedEvent, undefined> {
  if (response.body === null) throw new Error('expected a response with a body');
  let rest = '';
  for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
    rest += text;
    const blocks = rest.split('\n\n');
    rest = blocks.pop() ?? '';
    yield* blocks.map(parseEvent);
  }
  return undefined;
}

function parseEvent(block: string): ReceivedEvent {
  if (block.startsWith(':')) return { event: 'comment', data: {} };
  const field = (name: string) =>
    block
      .split('\n')
      .find((line) => line.startsWith(`${name}: `))
      ?.slice(name.length + 2) ?? '';
  return { event: field('event'), data: JSON.parse(field('data')) };
}
