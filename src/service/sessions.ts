import { ReadonceError } from '../core/errors.ts';
import type { EngineSession } from '../engine/protocol.ts';
import type { ContextLookup } from './context-lookup.ts';
import { timestamp } from './context-view.ts';
import { onlyTenant, type ServiceDeps } from './deps.ts';
import {
  checkKeepRatio,
  type Answer,
  type Queries,
  type QueryOptions,
  type SamplingRequest,
} from './queries.ts';
import { questionTurns } from './turns.ts';

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

  constructor(deps: ServiceDeps, lookup: ContextLookup, queries: Queries) {
    this.#deps = deps;
    this.#lookup = lookup;
    this.#queries = queries;
  }

  /**
   * Opens a session with a stored context.
   * @throws ReadonceError `invalid_argument`, `not_found`, `gone`, `conflict`, `overloaded` (there
   *   are too many), `out_of_memory`, `engine_unavailable`, `corrupt_record`
   */
  async open(contextId: string, input: SessionInput): Promise<SessionView> {
    const stored = this.#lookup.ready(contextId);
    const { keepRatio, ttlSeconds = defaultSessionTtlSeconds } = input;
    checkKeepRatio(keepRatio, stored);
    const { engine, store, clock } = this.#deps;
    const request = { contextId, keepRatio, tenant: onlyTenant, ttlMs: ttlSeconds * 1000 };
    const session = await engine.openSession(request);
    store.touch(contextId, clock.nowMs());
    return sessionView(session);
  }

  /** @throws ReadonceError `not_found`, `engine_unavailable`, `corrupt_record` */
  async get(id: string): Promise<SessionView> {
    return sessionView(await this.#find(id));
  }

  /** Ends a session. @throws ReadonceError `not_found`, `engine_unavailable` */
  async end(id: string): Promise<void> {
    const session = await this.#find(id);
    await orNotFound(this.#deps.engine.closeSession(session.id));
  }

  /**
   * Answers one more question; it and its answer become part of the session. Otherwise as
   * `Queries.query`.
   * @throws ReadonceError `not_found` for a session that has ended, and what `Queries.query` throws
   */
  async query(
    id: string,
    { query, ...sampling }: SessionQueryInput,
    options: QueryOptions,
    signal: AbortSignal,
  ): Promise<SessionAnswer> {
    const turns = questionTurns({ query });
    const { contextId } = await this.#find(id);
    const source = { kind: 'session', sessionId: id } as const;
    const asking = this.#queries.ask({ source, contextId, turns, sampling }, options, signal);
    return { ...(await orNotFound(asking)), contextId, sessionId: id };
  }

  /** A session of this tenant whose context can still be used. */
  async #find(id: string): Promise<EngineSession> {
    const session = await orNotFound(this.#deps.engine.session(id));
    if (session.tenant !== onlyTenant || !this.#isUsable(session.contextId)) throw ended();
    return session;
  }

  #isUsable(contextId: string): boolean {
    try {
      return this.#lookup.find(contextId).status === 'ready';
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
      'with their time, their context or the engine. Open a new one with ' +
      'POST /contexts/{id}/sessions.',
  );
}
