import { onTestFinished } from 'vitest';
import { createClient, type ReadonceClient } from '../../src/client/client.ts';
import type { ApiKey } from '../../src/core/api-key.ts';
import { createApp } from '../../src/http/app.ts';
import { defaultHttpLimits, type HttpLimits } from '../../src/http/limits.ts';
import { listen } from '../../src/http/server.ts';
import { createLogger } from '../../src/observability/logger.ts';
import { createMetrics } from '../../src/observability/metrics.ts';
import { defaultCompression } from '../../src/service/compression.ts';
import { defaultServiceLimits } from '../../src/service/limits.ts';
import { Service } from '../../src/service/service.ts';
import type { ContextStore } from '../../storage/context-store.ts';
import type { StoreOptions } from '../../storage/open-store.ts';
import { FakeEngine } from './fake-engine.ts';
import { FakeStore } from './fake-store.ts';
import { openStore } from './storage-harness.ts';
import type { Sample } from './storage-samples.ts';
import { TestClock } from './test-server.ts';

export interface TransferServer {
  readonly store: ContextStore;
  readonly engine: FakeEngine;
  readonly clock: TestClock;
  readonly client: ReadonceClient;
  readonly url: string;
  readonly logLines: readonly string[];
}

/** The HTTP stack over a real store and an engine that claims to run the sample's model. */
export async function startTransferServer(
  sample: Sample,
  options: {
    readonly http?: Partial<HttpLimits>;
    readonly apiKeys?: readonly ApiKey[];
    readonly store?: Partial<StoreOptions>;
  } = {},
): Promise<TransferServer> {
  const { layout, model } = sample.record;
  const engine = new FakeEngine(new FakeStore());
  engine.info = {
    modelId: model.id,
    modelDescription: '',
    fingerprint: model.fingerprint,
    contextLength: 1000,
    layout,
    device: 'cpu',
  };
  const store = await openStore(options.store);
  const clock = new TestClock();
  const metrics = createMetrics();
  const logLines: string[] = [];
  const stream = { write: (line: string) => void logLines.push(line) };
  const logger = createLogger({ level: 'info', stream });
  const shared = { engine, store, clock, metrics, logger };
  const limits = { ...defaultHttpLimits, ...options.http };
  const service = new Service({
    ...shared,
    defaults: defaultCompression,
    limits: defaultServiceLimits,
  });
  const app = createApp({
    service,
    apiKeys: options.apiKeys ?? [],
    limits,
    clock,
    logger,
    metrics,
  });
  const http = await listen({ app, host: '127.0.0.1', port: 0 });
  onTestFinished(() => http.close());
  return {
    store,
    engine,
    clock,
    client: createClient({ baseUrl: http.url }),
    url: http.url,
    logLines,
  };
}
