import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client';

/** Seconds; from a warm answer's first token to the ingestion of a long document on a CPU. */
const durationBuckets = [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180, 600];

/** What may become of a PUT: the label of `readonce_ingests_total`. */
export type IngestOutcome = 'ingested' | 'derived' | 'reused' | 'joined' | 'failed' | 'cancelled';
/** How a query may end: the label of `readonce_queries_total`. */
export type QueryOutcome = 'stop' | 'length' | 'cancelled' | 'failed';

/** The metrics of one server; a registry of its own, so that tests can have several. */
export interface Metrics {
  readonly registry: Registry;
  readonly httpRequests: Counter<'method' | 'route' | 'status'>;
  readonly httpRequestSeconds: Histogram<'method' | 'route'>;
  readonly errors: Counter<'code'>;
  readonly ingests: Counter<'outcome'>;
  readonly ingestSeconds: Histogram;
  readonly ingestedTokens: Counter;
  readonly runningIngests: Gauge;
  readonly queries: Counter<'outcome'>;
  readonly querySeconds: Histogram;
  readonly queryFirstTokenSeconds: Histogram;
  readonly queryQueueSeconds: Histogram;
  readonly prefilledTokens: Counter;
  readonly completionTokens: Counter;
  readonly cacheHits: Counter<'source'>;
  readonly runningQueries: Gauge;
  readonly storeContexts: Gauge<'state'>;
  readonly storeBytes: Gauge<'state'>;
  readonly deviceMemoryBytes: Gauge<'state'>;
}

/**
 * Every metric of the server process, declared once; `docs/metrics.md` explains each. Labels take a
 * bounded number of values: route patterns, HTTP methods, statuses, error codes, outcomes, tiers.
 */
export function createMetrics(): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const registers = [registry];
  const counter = <T extends string>(name: string, help: string, labelNames: readonly T[] = []) =>
    new Counter<T>({ name, help, labelNames, registers });
  const seconds = <T extends string>(name: string, help: string, labelNames: readonly T[] = []) =>
    new Histogram<T>({ name, help, labelNames, registers, buckets: durationBuckets });
  const gauge = <T extends string>(name: string, help: string, labelNames: readonly T[] = []) =>
    new Gauge<T>({ name, help, labelNames, registers });
  return {
    registry,
    httpRequests: counter('readonce_http_requests_total', 'HTTP requests answered.', [
      'method',
      'route',
      'status',
    ]),
    httpRequestSeconds: seconds(
      'readonce_http_request_seconds',
      'From the arrival of a request to the beginning of its response.',
      ['method', 'route'],
    ),
    errors: counter('readonce_errors_total', 'Problems sent to clients.', ['code']),
    ingests: counter('readonce_ingests_total', 'PUTs of a context, by what became of them.', [
      'outcome',
    ]),
    ingestSeconds: seconds('readonce_ingest_seconds', 'Duration of successful ingestions.'),
    ingestedTokens: counter('readonce_ingested_tokens_total', 'Document tokens ingested.'),
    runningIngests: gauge('readonce_running_ingests', 'Ingestions running or queued.'),
    queries: counter('readonce_queries_total', 'Queries, by how they ended.', ['outcome']),
    querySeconds: seconds('readonce_query_seconds', 'From arrival to the end of an answer.'),
    queryFirstTokenSeconds: seconds(
      'readonce_query_first_token_seconds',
      'From arrival to the first token of an answer.',
    ),
    queryQueueSeconds: seconds(
      'readonce_query_queue_seconds',
      'From arrival to the first computation for a query.',
    ),
    prefilledTokens: counter(
      'readonce_prefilled_tokens_total',
      'Query tokens whose KV pairs were computed.',
    ),
    completionTokens: counter('readonce_completion_tokens_total', 'Tokens answered.'),
    cacheHits: counter(
      'readonce_cache_hits_total',
      'Queries, by the tier their context was found in.',
      ['source'],
    ),
    runningQueries: gauge('readonce_running_queries', 'Queries running or queued.'),
    storeContexts: gauge('readonce_store_contexts', 'Contexts in the store, by state.', ['state']),
    storeBytes: gauge('readonce_store_bytes', "Bytes of the store's file, by use.", ['state']),
    deviceMemoryBytes: gauge('readonce_device_memory_bytes', "Bytes of the GPU's memory.", [
      'state',
    ]),
  };
}
