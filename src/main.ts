import { once } from 'node:events';
import type { Config } from './config/schema.ts';
import type { ApiKey } from './core/api-key.ts';
import { systemClock } from './core/clock.ts';
import type { CompressionSpec } from './core/compression-spec.ts';
import { ReadonceError } from './core/errors.ts';
import { startEngine } from './engine/client.ts';
import { createApp } from './http/app.ts';
import { defaultHttpLimits } from './http/limits.ts';
import { listen, type HttpServer } from './http/server.ts';
import { createLogger } from './observability/logger.ts';
import { createMetrics } from './observability/metrics.ts';
import { resolveCompression } from './service/compression.ts';
import { defaultServiceLimits } from './service/limits.ts';
import { Service } from './service/service.ts';
import { openContextStore } from '../storage/open-store.ts';

/** What a server is started with. */
export interface ServerSettings {
  readonly config: Config;
  /** None: nobody needs one. */
  readonly apiKeys: readonly ApiKey[];
}

/** A server that is ready to answer. */
export interface RunningServer {
  readonly url: string;
  /** Takes no new work, lets running answers finish for at most `shutdownMs`, ends. Idempotent. */
  close(): Promise<void>;
}

/**
 * Puts the parts together and resolves when the engine is ready; undefined if `stopped` aborted
 * before. Documents and queries that arrive earlier are told to come back.
 * @throws ReadonceError for a compression that is not built, a device that cannot run, a taken
 * port, a store or a model that cannot be opened; what was started is closed again
 */
export async function startServer(
  settings: ServerSettings,
  stopped: AbortSignal,
): Promise<RunningServer | undefined> {
  const defaults = checkConfig(settings.config);
  const started: (() => Promise<void>)[] = [];
  const close = async (): Promise<void> => {
    for (let end = started.pop(); end !== undefined; end = started.pop()) await end();
  };
  try {
    const { http, ready } = await startParts(settings, defaults, started);
    await Promise.race([ready, stopped.aborted || once(stopped, 'abort')]);
    if (!stopped.aborted) return { url: http.url, close };
    await close();
    return undefined;
  } catch (error) {
    await close();
    throw error;
  }
}

/** Starts everything, and pushes what ends it to `started`: last in, first out. */
async function startParts(
  { config, apiKeys }: ServerSettings,
  defaults: CompressionSpec,
  started: (() => Promise<void>)[],
): Promise<{ readonly http: HttpServer; readonly ready: Promise<unknown> }> {
  const logger = createLogger({ level: config.logLevel });
  const metrics = createMetrics();
  const clock = systemClock;
  const store = await openContextStore({ folder: config.data, maxBytes: config.storeMaxBytes });
  started.push(() => store.close());
  await store.sweep();
  const engine = startEngine({
    model: config.model,
    cacheFolder: config.cache,
    device: config.device,
    deviceIndex: config.deviceIndex,
    devicePrecision: config.devicePrecision,
    decodeWeights: config.decodeWeights,
    storeFolder: config.data,
    storeMaxBytes: config.storeMaxBytes,
    poolBytes: config.poolBytes,
    maxRunningQueries: config.maxRunningQueries,
    maxQueryWaitMs: config.maxQueryWaitMs,
    maxSessions: config.maxSessions,
    logLevel: config.logLevel,
    logger,
  });
  started.push(() => engine.close());
  const limits = {
    ...defaultServiceLimits,
    maxQueuedIngests: config.maxQueuedIngests,
    maxTenantIngests: config.maxTenantIngests,
    maxQueuedQueries: config.maxQueuedQueries,
    maxTenantQueries: config.maxTenantQueries,
  };
  const service = new Service({ engine, store, defaults, limits, clock, logger, metrics });
  const app = createApp({
    service,
    apiKeys,
    limits: {
      ...defaultHttpLimits,
      maxBodyBytes: config.maxBodyBytes,
      maxBodiesBytes: config.maxBodiesBytes,
      maxImportBytes: config.maxImportBytes,
    },
    clock,
    logger,
    metrics,
  });
  const http = await openPort(app, config);
  started.push(async () => {
    const drained = http.close();
    // Ingestions are given up at once, so that waiting PUTs hear of it; answers finish.
    await service.close();
    await drained;
  });
  return { http, ready: engine.ready };
}

function checkConfig(config: Config): CompressionSpec {
  const { method, budget, precision } = config;
  // keepRatio stays a default: a method that keeps every pair ignores it.
  const resolved = resolveCompression({ method, budget, precision }, config);
  return { ...resolved, keepRatio: config.keepRatio };
}

async function openPort(app: ReturnType<typeof createApp>, config: Config): Promise<HttpServer> {
  const { host, port, shutdownMs, maxStalledMs } = config;
  try {
    return await listen({ app, host, port, shutdownMs, maxStalledMs });
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ReadonceError(
      'invalid_argument',
      `Expected to listen on ${host} port ${port} but got: ${reason}. ` +
        'Choose another with --host or --port; port 0 takes a free one.',
      { cause: error },
    );
  }
}
