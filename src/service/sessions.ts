import { ReadonceError } from '../core/errors.ts';
import type { EngineSession } from '../engine/protocol.ts';
import { Admission } from './admission.ts';
import type { ContextLookup } from './context-lookup.ts';
import type { ContextRef } from './context-ref.ts';
import { timestamp } from './context-view.ts';
import type { ServiceDeps } from './deps.ts';
import {
  checkKeepRatio,
  type Answer,
  type Queries,
  type QueryOptions,
  type SamplingRequest,
} from './queries.ts';
import { questionTurns } from './turns.ts';

/** A session, as somebody asks for it: who it is that asks decides whether it is found. */
export interface SessionRef {
  /** Who asks; '' without tenants. */
  readonly tenant: string;
  /** As the client sent it. */
  readonly id: string;
}

/** How a client opens a session. */
export interface SessionInput {
  /** Use less than was kept; at most the stored ratio. Undefined: all of it. */
  readonly keepRatio?: number | undefined;
  /** The session ends when it was not used for so long. Undefined: `defaultSessionTtlSeconds`. */
  readonly ttlSeconds?: number | undefined;
}

/** A pause in a conversation; a session holds memory that others could use. */
export const defaultSessionTtlSeconds = 600;

/** One more question of a session; what it is asked of was chosen when it was opened. */
export interface SessionQueryInput extends SamplingRequest {
  readonly query: string;
}

/** A session as clients see it; times are RFC 3339. */
export interface SessionView {
  readonly id: string;
  readonly object: 'session';
  readonly contextId: string;
  readonly keepRatio: number;
  /** Questions answered. */
  readonly turns: number;
  /** Tokens held behind the context. */
  readonly tokens: number;
  readonly createdAt: string;
  readonly lastUsedAt: string;
  readonly expiresAt: string;
}

/** An answer of a session. */
export interface SessionAnswer extends Answer {
  readonly sessionId: string;
}

/** The use cases around conversations that the engine keeps in memory. */
export class Sessions {
  readonly #deps: ServiceDeps;
  readonly #lookup: ContextLookup;
  readonly #queries: Queries;
  /** Opening one may load its context, as a query does. */
  readonly #opens: Admission;

  constructor(deps: ServiceDeps, lookup: ContextLookup, queries: Queries) {
    this.#deps = deps;
    this.#lookup = lookup;
    this.#queries = queries;
    this.#opens = new Admission('sessions being opened', {
      all: deps.limits.maxQueuedQueries,
      each: deps.limits.maxTenantQueries,
    });
  }

  /**
   * Opens a session with a stored context. If `signal` aborts meanwhile, it is ended again: nobody
   * would know of it.
   * @throws ReadonceError `invalid_argument`, `not_found`, `gone`, `conflict`, `rate_limited`,
   *   `overloaded` (there are too many), `out_of_memory`, `engine_unavailable`, `corrupt_record`;
   *   the reason of `signal`
   */
  async open(ref: ContextRef, input: SessionInput, signal: AbortSignal): Promise<SessionView> {
    const { tenant, id: contextId } = ref;
    const stored = this.#lookup.ready(ref);
    const { keepRatio, ttlSeconds = defaultSessionTtlSeconds } = input;
    checkKeepRatio(keepRatio, stored);
    const { engine, store, clock } = this.#deps;
    const request = { contextId, keepRatio, tenant, ttlMs: ttlSeconds * 1000 };
    const session = await this.#opens.run(tenant, () => engine.openSession(request));
    if (signal.aborted) {
      await engine.closeSession(session.id);
      throw signal.reason;
    }
    store.touch(contextId, clock.nowMs());
    return sessionView(session);
  }

  /** @throws ReadonceError `not_found`, `engine_unavailable`, `corrupt_record` */
  async get(ref: SessionRef): Promise<SessionView> {
    return sessionView(await this.#find(ref));
  }

  /** Ends a session. @throws ReadonceError `not_found`, `engine_unavailable` */
  async end(ref: SessionRef): Promise<void> {
    const session = await this.#find(ref);
    await orNotFound(this.#deps.engine.closeSession(session.id));
  }

  /**
   * Answers one more question; it and its answer become part of the session. Otherwise as
   * `Queries.query`.
   * @throws ReadonceError `not_found` for a session that has ended, and what `Queries.query` throws
   */
  async query(
    ref: SessionRef,
    { query, ...sampling }: SessionQueryInput,
    options: QueryOptions,
    signal: AbortSignal,
  ): Promise<SessionAnswer> {
    const turns = questionTurns({ query });
    const { id: sessionId, contextId, tenant } = await this.#find(ref);
    const source = { kind: 'session', sessionId } as const;
    const ask = { source, tenant, contextId, turns, sampling };
    const answer = await orNotFound(this.#queries.ask(ask, options, signal));
    return { ...answer, contextId, sessionId };
  }

  /** A session of the tenant whose context can still be used. */
  async #find({ tenant, id }: SessionRef): Promise<EngineSession> {
    const session = await orNotFound(this.#deps.engine.session(id));
    if (session.tenant !== tenant || !this.#isUsable({ tenant, id: session.contextId }))
      throw ended();
    return session;
  }

  #isUsable(ref: ContextRef): boolean {
    try {
      return this.#lookup.find(ref).status === 'ready';
    } catch (error) {
      if (isOneOf(error, ['not_found', 'gone'])) return false;
      throw error;
    }
  }
}

function sessionView(session: EngineSession): SessionView {
  const { id, contextId, keepRatio, turns, tokens } = session;
  return {
    id,
    object: 'session',
    contextId,
    keepRatio,
    turns,
    tokens,
    createdAt: timestamp(session.createdAtMs),
    lastUsedAt: timestamp(session.lastUsedAtMs),
    expiresAt: timestamp(session.expiresAtMs),
  };
}

/** The engine's words for a session that it does not have are replaced by those of all others. */
async function orNotFound<T>(call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (error) {
    throw isOneOf(error, ['not_found']) ? ended() : error;
  }
}

function isOneOf(error: unknown, codes: readonly string[]): boolean {
  return error instanceof ReadonceError && codes.includes(error.code);
}

/** One text for unknown and ended ones and those of others: nothing is said about which it was. */
function ended(): ReadonceError {
  return new ReadonceError(
    'not_found',
    'Expected the id of an open session but got one that is unknown or has ended: sessions end ' +
      'with their time, their context or the engine, or when memory is short. Open a new one with ' +
      'POST /contexts/{id}/sessions.',
  );
}
