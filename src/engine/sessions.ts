import { randomBytes } from 'node:crypto';
import type { Clock } from '../core/clock.ts';
import type { Closeable } from '../core/closeable.ts';
import type { ContextRecord } from '../core/context.ts';
import { ReadonceError } from '../core/errors.ts';
import type { Runtime, Tail } from '../runtime/runtime.ts';
import type { LoadedContext } from './loaded-context.ts';
import type { LoadedContexts } from './loaded-contexts.ts';
import type { EngineSession } from './protocol.ts';

/** A session while it is asked. */
export interface Conversation {
  readonly record: ContextRecord;
  readonly keepRatio: number;
  /** Pairs of the turns so far. */
  readonly tail: Tail;
  /** Tokens of the last answer that the tail does not hold yet. */
  readonly pendingIds: Int32Array;
  /** Counts a turn that was answered. */
  answered(pendingIds: Int32Array): void;
  /** Takes over the hold on the memory of the tail. */
  keep(hold: LoadedContext): void;
}

/** What sessions are made of, and how many there may be. */
export interface SessionsOptions {
  readonly runtime: Pick<Runtime, 'createTail'>;
  readonly loaded: LoadedContexts;
  readonly clock: Clock;
  /** Of all tenants. One of several may have half: it never shuts the others out. */
  readonly maxSessions: number;
}

/** A session to open, on a context that was found. */
export interface SessionToOpen {
  readonly record: ContextRecord;
  readonly keepRatio: number;
  readonly tenant: string;
  readonly ttlMs: number;
}

/** How often sessions that nobody used are looked for. */
const sweepMs = 30_000;

/**
 * Conversations with stored contexts: between turns a session keeps the pairs of its own tokens,
 * beside the context and never in it. The context itself may leave memory meanwhile. Sessions end
 * with their time, their context, or the engine; and idle ones when memory is short, the least
 * recently used one first.
 */
export class Sessions implements Closeable {
  readonly #options: SessionsOptions;
  readonly #sessions = new Map<string, Session>();
  readonly #timer: NodeJS.Timeout;

  constructor(options: SessionsOptions) {
    this.#options = options;
    this.#timer = setInterval(() => this.#sweep(), sweepMs);
    this.#timer.unref();
  }

  /** @throws ReadonceError `overloaded`, `rate_limited` if a tenant has its half */
  open(request: SessionToOpen): EngineSession {
    this.#sweep();
    const { maxSessions, runtime, loaded, clock } = this.#options;
    if (this.#sessions.size >= maxSessions) throw tooMany('overloaded', { maxSessions });
    const share = Math.ceil(maxSessions / 2);
    if (request.tenant !== '' && this.#countOf(request.tenant) >= share) {
      throw tooMany('rate_limited', { maxSessions: share });
    }
    const session = new Session(request, { tail: runtime.createTail(), loaded, clock });
    this.#sessions.set(session.id, session);
    return session.view();
  }

  /** @throws ReadonceError `not_found` */
  get(id: string): { readonly record: ContextRecord; readonly view: EngineSession } {
    const session = this.#find(id);
    return { record: session.record, view: session.view() };
  }

  /**
   * Runs what asks a session, waiting included: meanwhile it neither expires nor gives way.
   * @throws ReadonceError `not_found`
   */
  async asked<T>(id: string, ask: () => Promise<T>): Promise<T> {
    const session = this.#find(id);
    session.enter();
    try {
      return await ask();
    } finally {
      session.leave(() => this.#remove(session));
      if (!session.isBusy && !this.#sessions.has(id)) session.close();
    }
  }

  /**
   * Lets one query use a session, within `asked`; callers queue for it.
   * @throws ReadonceError `not_found` (it has ended meanwhile)
   */
  async converse<T>(id: string, use: (conversation: Conversation) => Promise<T>): Promise<T> {
    const session = this.#find(id);
    try {
      return await use(session);
    } finally {
      session.touch();
    }
  }

  /** @throws ReadonceError `not_found` */
  end(id: string): void {
    this.#remove(this.#find(id));
  }

  /** Ends the sessions of a context that was deleted. */
  endOf(contextId: string): void {
    for (const session of this.#sessions.values()) {
      if (session.record.id === contextId) this.#remove(session);
    }
  }

  close(): void {
    clearInterval(this.#timer);
    for (const session of this.#sessions.values()) this.#remove(session);
  }

  #countOf(tenant: string): number {
    return [...this.#sessions.values()].filter((session) => session.tenant === tenant).length;
  }

  #find(id: string): Session {
    this.#sweep();
    const session = this.#sessions.get(id);
    if (session !== undefined) return session;
    throw new ReadonceError(
      'not_found',
      `Expected the id of an open session but got ${id}: sessions end with their time, their ` +
        'context or the engine, or when memory is short; open another',
    );
  }

  /** One that is asked just now goes when nobody asks it any more. */
  #remove(session: Session): void {
    this.#sessions.delete(session.id);
    if (!session.isBusy) session.close();
  }

  #sweep(): void {
    const nowMs = this.#options.clock.nowMs();
    for (const session of this.#sessions.values()) {
      if (!session.isBusy && session.expiresAtMs <= nowMs) this.#remove(session);
    }
  }
}

class Session implements Conversation, Closeable {
  readonly id = `ses_${randomBytes(16).toString('hex')}`;
  readonly record: ContextRecord;
  readonly keepRatio: number;
  readonly tail: Tail;
  pendingIds = new Int32Array(0);
  readonly #request: SessionToOpen;
  readonly #loaded: LoadedContexts;
  readonly #clock: Clock;
  readonly #createdAtMs: number;
  #lastUsedAtMs: number;
  #turns = 0;
  /** Queries that ask it, or wait to. */
  #asking = 0;
  #hold: LoadedContext | undefined;

  constructor(
    request: SessionToOpen,
    parts: { readonly tail: Tail; readonly loaded: LoadedContexts; readonly clock: Clock },
  ) {
    this.#request = request;
    this.record = request.record;
    this.keepRatio = request.keepRatio;
    this.tail = parts.tail;
    this.#loaded = parts.loaded;
    this.#clock = parts.clock;
    this.#createdAtMs = parts.clock.nowMs();
    this.#lastUsedAtMs = this.#createdAtMs;
  }

  get tenant(): string {
    return this.#request.tenant;
  }

  get isBusy(): boolean {
    return this.#asking > 0;
  }

  get expiresAtMs(): number {
    return this.#lastUsedAtMs + this.#request.ttlMs;
  }

  answered(pendingIds: Int32Array): void {
    this.pendingIds = Int32Array.from(pendingIds);
    this.#turns++;
  }

  keep(hold: LoadedContext): void {
    if (this.#hold !== undefined) this.#loaded.release(this.#hold);
    this.#hold = hold;
  }

  touch(): void {
    this.#lastUsedAtMs = this.#clock.nowMs();
  }

  enter(): void {
    this.#asking++;
    if (this.#hold !== undefined) this.#loaded.withdraw(this.#hold);
  }

  /** Once nobody asks, others may have its memory: `end` ends it. */
  leave(end: () => void): void {
    this.#asking--;
    if (!this.isBusy && this.#hold !== undefined) this.#loaded.offer(this.#hold, end);
  }

  view(): EngineSession {
    return {
      id: this.id,
      contextId: this.record.id,
      tenant: this.tenant,
      keepRatio: this.keepRatio,
      turns: this.#turns,
      tokens: this.tail.length + this.pendingIds.length,
      createdAtMs: this.#createdAtMs,
      lastUsedAtMs: this.#lastUsedAtMs,
      expiresAtMs: this.expiresAtMs,
    };
  }

  close(): void {
    this.tail.close();
    if (this.#hold !== undefined) this.#loaded.release(this.#hold);
    this.#hold = undefined;
  }
}

function tooMany(
  code: 'overloaded' | 'rate_limited',
  details: { readonly maxSessions: number },
): ReadonceError {
  const whose = code === 'rate_limited' ? ' of one tenant' : '';
  return new ReadonceError(
    code,
    `Expected at most ${details.maxSessions} sessions at once${whose} but got one more: end some, ` +
      'or try again when some have expired',
    { retryAfterSeconds: 30, details },
  );
}
