import { randomBytes, randomInt } from 'node:crypto';
import { scoringMethods } from '../compression/registry.ts';
import type { StoredContext } from '../core/context.ts';
import { requireStoredKeepRatio } from '../core/stored-keep-ratio.ts';
import type {
  ChatMessage,
  EngineAnswer,
  EngineQuery,
  QuerySource,
  SamplingOptions,
} from '../engine/protocol.ts';
import { Admission } from './admission.ts';
import type { ContextLookup } from './context-lookup.ts';
import type { ContextRef } from './context-ref.ts';
import type { ServiceDeps } from './deps.ts';
import { questionTurns, type Question } from './turns.ts';

/** What holds where a query says nothing; the seed is drawn anew. */
export const defaultSampling: Omit<SamplingOptions, 'seed'> = {
  maxTokens: 128,
  temperature: 0,
  topP: 1,
  topK: 0,
  stop: [],
};

/** Seeds are unsigned 32-bit integers. */
export const seedEnd = 2 ** 32;

/** What a client says about sampling; the rest is `defaultSampling` and a random seed. */
export type SamplingRequest = {
  readonly [Key in keyof SamplingOptions]?: SamplingOptions[Key] | undefined;
};

/** A question as it came, and how to answer it. */
export interface QueryInput extends SamplingRequest, Question {
  /** Use less than was kept; at most the stored ratio. Undefined: all of it. */
  readonly keepRatio?: number | undefined;
}

/** What the engine is asked, but for what the service chooses. */
export interface Ask {
  readonly source: QuerySource;
  /** Who asks; '' without tenants. */
  readonly tenant: string;
  /** The context that is used by it; undefined: none. */
  readonly contextId: string | undefined;
  readonly turns: readonly ChatMessage[];
  readonly sampling: SamplingRequest;
}

/** When a query came, and who gets its answer piece by piece. */
export interface QueryOptions {
  /** When the request arrived, `Clock.monotonicMs`: where its timings count from. */
  readonly arrivedAtMs: number;
  onText(text: string): void;
}

/** An answer of the engine; what counts from arrival counts from the HTTP request's, in ms. */
export interface AskedAnswer extends EngineAnswer {
  /** `ans_…` */
  readonly id: string;
  readonly object: 'answer';
}

/** An answer from a context, as clients see it. */
export interface Answer extends AskedAnswer {
  readonly contextId: string;
}

/**
 * The use case behind `POST /contexts/{id}/query`, and the one place where questions of all kinds
 * are admitted, timed and observed.
 */
export class Queries {
  readonly #deps: ServiceDeps;
  readonly #lookup: ContextLookup;
  readonly #places: Admission;

  constructor(deps: ServiceDeps, lookup: ContextLookup) {
    this.#deps = deps;
    this.#lookup = lookup;
    const { maxQueuedQueries, maxTenantQueries } = deps.limits;
    this.#places = new Admission('queued queries', {
      all: maxQueuedQueries,
      each: maxTenantQueries,
    });
  }

  /**
   * Answers from a stored context; `onText` gets the pieces of the answer in order. An abort ends
   * with `finishReason` "cancelled".
   * @throws ReadonceError `invalid_argument`, `unsupported`, `not_found`, `gone`, `conflict`,
   *   `context_too_long`, `rate_limited`, `overloaded`, `engine_unavailable`, `corrupt_record`,
   *   `out_of_memory`
   */
  async query(
    ref: ContextRef,
    { query, messages, keepRatio, ...sampling }: QueryInput,
    options: QueryOptions,
    signal: AbortSignal,
  ): Promise<Answer> {
    const { tenant, id: contextId } = ref;
    const stored = this.#lookup.ready(ref);
    const turns = questionTurns({ query, messages });
    checkKeepRatio(keepRatio, stored);
    const source = { kind: 'context', contextId, keepRatio } as const;
    const ask = { source, tenant, contextId, turns, sampling };
    const answer = await this.ask(ask, options, signal);
    return { ...answer, contextId };
  }

  /** Asks the engine, whatever the source. @throws ReadonceError as `query` and sessions do */
  async ask(ask: Ask, options: QueryOptions, signal: AbortSignal): Promise<AskedAnswer> {
    const { source, tenant, contextId, turns } = ask;
    const { metrics, engine, store, clock } = this.#deps;
    const leave = this.#places.enter(tenant);
    metrics.runningQueries.set(this.#places.taken);
    try {
      const waitedMs = clock.monotonicMs() - options.arrivedAtMs;
      const request: EngineQuery = {
        source,
        tenant,
        turns,
        sampling: sampling(ask.sampling),
      };
      const answering = engine.query(request, (text) => options.onText(text), signal);
      if (contextId !== undefined) store.touch(contextId, clock.nowMs());
      const answer = countFromArrival(await answering, waitedMs);
      this.#observe(answer);
      return { id: `ans_${randomBytes(16).toString('hex')}`, object: 'answer', ...answer };
    } catch (error) {
      // A client that left before the engine was asked has no answer to say so.
      const hasLeft = signal.aborted && error === signal.reason;
      metrics.queries.inc({ outcome: hasLeft ? 'cancelled' : 'failed' });
      throw error;
    } finally {
      leave();
      metrics.runningQueries.set(this.#places.taken);
    }
  }

  #observe({ finishReason, usage, cache, timings }: EngineAnswer): void {
    const { metrics } = this.#deps;
    metrics.queries.inc({ outcome: finishReason });
    metrics.querySeconds.observe(timings.totalMs / 1000);
    metrics.queryFirstTokenSeconds.observe(timings.firstTokenMs / 1000);
    metrics.queryQueueSeconds.observe(timings.queueMs / 1000);
    metrics.prefilledTokens.inc(usage.prefilledTokens);
    metrics.completionTokens.inc(usage.completionTokens);
    metrics.cacheHits.inc({ source: cache.source });
  }
}

/** @throws ReadonceError `invalid_argument` if a context cannot be used at a keepRatio */
export function checkKeepRatio(keepRatio: number | undefined, { record }: StoredContext): void {
  if (keepRatio === undefined) return;
  const { keepRatio: stored, method } = record.compression;
  const keepsAll = scoringMethods.get(method)?.keepsAll === true;
  requireStoredKeepRatio(keepRatio, { keepRatio: stored, method, keepsAll });
}

function sampling(input: SamplingRequest): SamplingOptions {
  return {
    maxTokens: input.maxTokens ?? defaultSampling.maxTokens,
    temperature: input.temperature ?? defaultSampling.temperature,
    topP: input.topP ?? defaultSampling.topP,
    topK: input.topK ?? defaultSampling.topK,
    seed: input.seed ?? randomInt(seedEnd),
    stop: input.stop ?? defaultSampling.stop,
  };
}

/** The engine counts from when it was asked; clients are told the time since their request came. */
function countFromArrival(answer: EngineAnswer, waitedMs: number): EngineAnswer {
  const { timings } = answer;
  return {
    ...answer,
    timings: {
      ...timings,
      queueMs: timings.queueMs + waitedMs,
      firstTokenMs: timings.firstTokenMs + waitedMs,
      totalMs: timings.totalMs + waitedMs,
    },
  };
}
