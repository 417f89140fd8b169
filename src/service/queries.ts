import { randomBytes, randomInt } from 'node:crypto';
import type { StoredContext } from '../core/context.ts';
import { ReadonceError } from '../core/errors.ts';
import type { EngineAnswer, EngineQuery, SamplingOptions } from '../engine/protocol.ts';
import { Admission } from './admission.ts';
import type { ContextLookup } from './context-lookup.ts';
import type { ContextRef } from './context-ref.ts';
import type { ServiceDeps } from './deps.ts';
import { invalidArgument } from './invalid-argument.ts';

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

/** A question as it came; that there is one is checked here, since `messages` may stand for it. */
export interface QueryInput extends SamplingRequest {
  /** As the client sent it; trimmed here. */
  readonly query: string | undefined;
  /** Several turns: named by the contract, not built. */
  readonly messages?: unknown;
  /** Use less than was kept; at most the stored ratio. Undefined: all of it. */
  readonly keepRatio?: number | undefined;
}

/** When a query came, and who gets its answer piece by piece. */
export interface QueryOptions {
  /** When the request arrived, `Clock.monotonicMs`: where its timings count from. */
  readonly arrivedAtMs: number;
  onText(text: string): void;
}

/** An answer as clients see it: what counts from arrival counts from the HTTP request's, in ms. */
export interface Answer extends EngineAnswer {
  readonly id: string;
  readonly object: 'answer';
  readonly contextId: string;
}

/** The use case behind `POST /contexts/{id}/query`. */
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
    input: QueryInput,
    options: QueryOptions,
    signal: AbortSignal,
  ): Promise<Answer> {
    const { tenant, id: contextId } = ref;
    const stored = this.#lookup.ready(ref);
    const query = queryText(input);
    checkKeepRatio(input.keepRatio, stored);
    const { metrics } = this.#deps;
    const leave = this.#places.enter(tenant);
    metrics.runningQueries.set(this.#places.taken);
    try {
      const waitedMs = this.#deps.clock.monotonicMs() - options.arrivedAtMs;
      const request: EngineQuery = {
        source: { kind: 'context', contextId, keepRatio: input.keepRatio },
        tenant,
        turns: [{ role: 'user', content: query }],
        sampling: sampling(input),
      };
      const answering = this.#deps.engine.query(request, (text) => options.onText(text), signal);
      this.#deps.store.touch(contextId, this.#deps.clock.nowMs());
      const answer = countFromArrival(await answering, waitedMs);
      this.#observe(answer);
      return {
        id: `ans_${randomBytes(16).toString('hex')}`,
        object: 'answer',
        contextId,
        ...answer,
      };
    } catch (error) {
      metrics.queries.inc({ outcome: 'failed' });
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

function queryText({ query, messages }: QueryInput): string {
  if (messages !== undefined) {
    throw new ReadonceError(
      'unsupported',
      'Expected "query" but got "messages", which is not built yet. ' +
        'Send the question as "query".',
      { details: { path: 'messages' } },
    );
  }
  const text = query?.trim() ?? '';
  if (text !== '') return text;
  throw invalidArgument('query', 'Expected text for query but got nothing, or only white space.');
}

function checkKeepRatio(keepRatio: number | undefined, { record }: StoredContext): void {
  const stored = record.compression.keepRatio;
  if (keepRatio === undefined || keepRatio <= stored) return;
  throw invalidArgument(
    'keepRatio',
    `Expected at most ${stored}, what the context was stored with, for keepRatio but got ` +
      `${keepRatio}. Put the document again with a larger keepRatio to keep more.`,
  );
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
