import { ReadonceError } from '../core/errors.ts';
import { scoringMethods } from '../compression/registry.ts';
import { Chats } from './chats.ts';
import { ContextLookup } from './context-lookup.ts';
import { Contexts } from './contexts.ts';
import type { ServiceDeps } from './deps.ts';
import { DeviceGauges } from './device-gauges.ts';
import { DocumentFinder } from './document-finder.ts';
import { Ingestions, type IngestionObserver } from './ingestions.ts';
import { PutContext, type PutInput, type PutOptions, type PutResult } from './put-context.ts';
import { Queries } from './queries.ts';
import { Sessions } from './sessions.ts';
import { StoreGauges } from './store-gauges.ts';
import { TenantSalts } from './tenant-salts.ts';
import { Transfers } from './transfers.ts';

/** A scoring method as clients see it. */
export interface MethodView {
  readonly id: string;
  readonly object: 'method';
  readonly description: string;
  /** null for a baseline of our own. */
  readonly paper: string | null;
  /** It takes no keepRatio below 1. */
  readonly keepsAll: boolean;
  /** What a PUT gets that names none. */
  readonly default: boolean;
}

/** A model as clients see it. */
export interface ModelView {
  readonly id: string;
  readonly object: 'model';
  readonly description: string;
  readonly fingerprint: string;
  /** Tokens of the window. */
  readonly contextLength: number;
  /** `cpu`, or a CUDA device with its name. */
  readonly device: string;
  readonly default: boolean;
}

/** All use cases over one engine and one store. It closes neither. */
export class Service {
  readonly contexts: Contexts;
  readonly queries: Queries;
  readonly sessions: Sessions;
  readonly chats: Chats;
  readonly transfers: Transfers;
  readonly storeGauges: StoreGauges;
  readonly deviceGauges: DeviceGauges;
  readonly #deps: ServiceDeps;
  readonly #ingestions: Ingestions;
  readonly #put: PutContext;

  constructor(deps: ServiceDeps) {
    this.#deps = deps;
    this.#ingestions = new Ingestions(deps.limits.maxFailedContexts, observer(deps));
    const lookup = new ContextLookup(deps, this.#ingestions);
    const salts = new TenantSalts(deps.store);
    this.#put = new PutContext(deps, this.#ingestions, salts);
    this.contexts = new Contexts(deps, lookup, this.#ingestions);
    this.queries = new Queries(deps, lookup);
    this.sessions = new Sessions(deps, lookup, this.queries);
    const finder = new DocumentFinder(deps, salts);
    this.chats = new Chats(deps, { lookup, queries: this.queries, put: this.#put, finder });
    this.transfers = new Transfers(deps, lookup, salts);
    this.storeGauges = new StoreGauges(deps);
    this.deviceGauges = new DeviceGauges(deps);
  }

  /** See `PutContext.put`. */
  put(input: PutInput, options: PutOptions): Promise<PutResult> {
    return this.#put.put(input, options);
  }

  /** The scoring methods that are built. */
  methods(): readonly MethodView[] {
    return [...scoringMethods.values()].map((method) => ({
      id: method.name,
      object: 'method',
      description: method.description,
      paper: method.paper,
      keepsAll: method.keepsAll,
      default: method.name === this.#deps.defaults.method,
    }));
  }

  /** The engine's model; empty until the engine has started once. */
  models(): readonly ModelView[] {
    const { info } = this.#deps.engine;
    if (info === undefined) return [];
    return [
      {
        id: info.modelId,
        object: 'model',
        description: info.modelDescription,
        fingerprint: info.fingerprint,
        contextLength: info.contextLength,
        device: info.device,
        default: true,
      },
    ];
  }

  /** @throws ReadonceError `engine_unavailable` unless documents and queries can be served */
  checkReady(): void {
    const { state } = this.#deps.engine;
    if (state === 'ready') return;
    throw new ReadonceError(
      'engine_unavailable',
      `Expected a running engine but it is ${state}. Stored contexts are safe; try again soon.`,
      { retryAfterSeconds: 1 },
    );
  }

  /** Stops ingestions and waits for them. Idempotent. */
  async close(): Promise<void> {
    await this.#ingestions.close(
      new ReadonceError('engine_unavailable', 'The server is shutting down. Try again later.', {
        retryAfterSeconds: 5,
      }),
    );
  }
}

function observer({ metrics, logger }: ServiceDeps): IngestionObserver {
  return {
    onStarted: () => metrics.runningIngests.inc(),
    onReady: ({ stored: { record }, derived, found }) => {
      if (found) return;
      metrics.ingests.inc({ outcome: derived ? 'derived' : 'ingested' });
      if (derived) {
        logger.info({ contextId: record.id, timings: record.timings }, 'context derived');
        return;
      }
      metrics.ingestSeconds.observe(record.timings.totalMs / 1000);
      metrics.ingestedTokens.inc(record.document.tokens);
      logger.info(
        { contextId: record.id, tokens: record.document.tokens, timings: record.timings },
        'context ingested',
      );
    },
    onFailed: ({ pending, error }) => {
      metrics.ingests.inc({ outcome: 'failed' });
      logger.warn({ contextId: pending.id, code: error.code, err: error }, 'ingestion failed');
    },
    onCancelled: () => metrics.ingests.inc({ outcome: 'cancelled' }),
    onSettled: () => metrics.runningIngests.dec(),
  };
}
