import { concatenate } from '../core/concatenate.ts';
import { contextTokens, type ContextRecord } from '../core/context.ts';
import { ReadonceError } from '../core/errors.ts';
import { resolvePrecision } from '../compression/registry.ts';
import type { Runtime, Tail } from '../runtime/runtime.ts';
import type { ContextStore } from '../../storage/context-store.ts';
import { createAnswerText } from './answer-text.ts';
import { decode, type Decoded, type DecodeDependencies } from './decode.ts';
import { findContext, usedKeepRatio } from './find-context.ts';
import type { KeyedQueue } from './keyed-queue.ts';
import { loadContext } from './load-context.ts';
import type { Claim, LoadedContext } from './loaded-context.ts';
import type { LoadedContexts } from './loaded-contexts.ts';
import { promptQueue, readPrompt } from './prompt-context.ts';
import type { EngineAnswer, EngineQuery, QuerySource } from './protocol.ts';
import { encodeFollowUp, encodePrompt, encodeTurns } from './query-tokens.ts';
import { waitedTooLong } from './scheduler.ts';
import type { Conversation, Sessions } from './sessions.ts';

/** What all answers of an engine share. Nothing of it is closed by an answer. */
export interface AnswerDependencies extends DecodeDependencies {
  readonly runtime: Runtime;
  readonly store: ContextStore;
  readonly loaded: LoadedContexts;
  readonly sessions: Sessions;
  readonly queue: KeyedQueue;
  /** How long a query waits from its arrival on, in all: for its turn, a place, and memory. */
  readonly maxWaitMs: number;
  /** Tokens of a prompt computed in one piece of work. */
  readonly sliceTokens: number;
}

/** One query. `onText` gets the pieces of the answer in order, all of them before the call ends. */
export interface AnswerCall {
  readonly query: EngineQuery;
  readonly onText: (text: string) => void;
  readonly signal: AbortSignal;
}

/**
 * Answers a query: load, extend by the query's tokens, step. Nothing of a stored document is
 * computed. An aborted call resolves with `cancelled` and the text so far.
 * @throws ReadonceError `not_found`, `invalid_argument` (a keepRatio above the stored one),
 * `context_too_long`, `conflict` (deleted or replaced while it was loaded), `corrupt_record`,
 * `out_of_memory`, `overloaded`
 */
export function answer(dependencies: AnswerDependencies, call: AnswerCall): Promise<EngineAnswer> {
  const { source } = call.query;
  const run = new AnswerRun(dependencies, call);
  if (source.kind === 'context') return run.askContext(source);
  return source.kind === 'session' ? run.askSession(source) : run.askPrompt(source);
}

type SourceOf<Kind extends QuerySource['kind']> = Extract<QuerySource, { readonly kind: Kind }>;

/** What a query computes behind. */
interface Ground {
  readonly ids: Int32Array;
  /** All tokens but the document's. */
  readonly queryTokens: number;
  readonly startPosition: number;
  readonly contextTokens: number;
  readonly keepRatio: number;
  /** Bytes of that many pairs as they are stored. */
  readonly storedBytes: (pairs: number) => number;
}

/** What an answer was computed from, and how it went. */
interface Answered {
  readonly context: LoadedContext;
  readonly decoded: Decoded;
}

/** One query from its arrival on. */
class AnswerRun {
  readonly #dependencies: AnswerDependencies;
  readonly #call: AnswerCall;
  readonly #arrivedMs: number;
  #startedMs: number | undefined;
  #loadMs = 0;
  /** What others had given back when memory was asked for the last time. */
  #givenBack = 0;

  constructor(dependencies: AnswerDependencies, call: AnswerCall) {
    this.#dependencies = dependencies;
    this.#call = call;
    this.#arrivedMs = dependencies.clock.monotonicMs();
  }

  async askContext({ contextId, keepRatio: asked }: SourceOf<'context'>): Promise<EngineAnswer> {
    const { checkpoint, loaded, runtime } = this.#dependencies;
    const { turns, sampling } = this.#call.query;
    const record = findContext(this.#dependencies, contextId);
    const keepRatio = usedKeepRatio(record, asked);
    const held = contextTokens(record);
    const ids = encodeTurns(checkpoint, { contextTokens: held, turns, ...sampling });
    const ground = { ...storedGround(record, keepRatio, ids), startPosition: held };
    return this.#admitted(contextId, ground, async () => {
      const context = await this.#acquire(record, ground);
      const tail = runtime.createTail();
      try {
        return { context, decoded: await this.#decode(context, tail, ground) };
      } finally {
        tail.close();
        loaded.release(context);
      }
    });
  }

  async askSession({ sessionId }: SourceOf<'session'>): Promise<EngineAnswer> {
    const { sessions } = this.#dependencies;
    const { record, view } = sessions.get(sessionId);
    const converse = (): Promise<EngineAnswer> =>
      sessions.converse(sessionId, (conversation) => this.#converse(conversation));
    try {
      return await sessions.asked(sessionId, () => this.#inTurn(sessionId, converse));
    } catch (error) {
      if (!this.#call.signal.aborted || error !== this.#call.signal.reason) throw error;
      const ground = storedGround(record, view.keepRatio, nothingDecoded.pendingIds);
      return this.#result(ground, nothingDecoded, undefined);
    }
  }

  async #converse(conversation: Conversation): Promise<EngineAnswer> {
    const { checkpoint, loaded } = this.#dependencies;
    const { turns, sampling } = this.#call.query;
    const { record, tail, pendingIds, keepRatio } = conversation;
    const startPosition = contextTokens(record) + tail.length;
    const held = { contextTokens: startPosition + pendingIds.length, ...sampling };
    const isFirst = tail.length === 0;
    const asked = isFirst
      ? encodeTurns(checkpoint, { ...held, turns })
      : encodeFollowUp(checkpoint, { ...held, turn: turns.at(-1)?.content ?? '' });
    const ids = concatenate(pendingIds, asked);
    const ground = { ...storedGround(record, keepRatio, ids), startPosition };
    const heldRows = tail.length;
    return this.#admitted(record.id, ground, async () => {
      const context = await this.#acquire(record, ground, tail.sizeBytes);
      let keptRows = heldRows;
      try {
        const decoded = await this.#decode(context, tail, ground);
        if (decoded.finishReason !== 'cancelled') {
          keptRows = tail.length;
          conversation.answered(decoded.pendingIds);
        }
        return { context, decoded };
      } finally {
        tail.truncate(keptRows);
        tail.park();
        loaded.park(context, tail.sizeBytes);
        conversation.keep(context);
      }
    });
  }

  async askPrompt(source: SourceOf<'prompt'>): Promise<EngineAnswer> {
    const { checkpoint, runtime } = this.#dependencies;
    const { turns, sampling } = this.#call.query;
    const { signal } = this.#call;
    const prompt = encodePrompt(checkpoint, { ...source, turns, ...sampling });
    const ground: Ground = {
      ids: prompt.ids,
      queryTokens: prompt.ids.length - prompt.documentTokens,
      startPosition: 0,
      contextTokens: prompt.documentTokens,
      keepRatio: 1,
      storedBytes: () => 0,
    };
    return this.#settled(ground, async (hold) => {
      const unread = { ids: prompt.ids, tailTokens: sampling.maxTokens, signal };
      // One prompt at a time is read, and only that one keeps a place from others meanwhile.
      const read = await this.#inTurn(promptQueue, async () => {
        hold(await this.#admit(''));
        this.#start();
        return this.#whenRoom(() => readPrompt(this.#dependencies, unread));
      });
      const tail = runtime.createTail();
      try {
        const { context, ids } = read;
        const startPosition = prompt.ids.length - ids.length;
        const decoded = await this.#decode(context, tail, { ...ground, ids, startPosition });
        // What lies in the context was computed for this query, too.
        const prefilledTokens = startPosition + decoded.prefilledTokens;
        return { context, decoded: { ...decoded, prefilledTokens } };
      } finally {
        tail.close();
        read.close();
      }
    });
  }

  /** Runs `use` in a place among the running queries. */
  #admitted(
    contextId: string,
    ground: Ground,
    use: () => Promise<Answered>,
  ): Promise<EngineAnswer> {
    return this.#settled(ground, async (hold) => {
      hold(await this.#admit(contextId));
      return use();
    });
  }

  #admit(contextId: string): Promise<() => void> {
    const { tenant } = this.#call.query;
    const asker = { tenant, contextId, leftMs: this.#leftMs() };
    return this.#dependencies.scheduler.admit(asker, this.#call.signal);
  }

  /** What is left of the time that a query may wait, in whatever lines. */
  #leftMs(): number {
    const { clock, maxWaitMs } = this.#dependencies;
    return Math.max(0, Math.ceil(this.#arrivedMs + maxWaitMs - clock.monotonicMs()));
  }

  /** Waits in line, but not for ever; `use` itself is not cut off. */
  async #inTurn<T>(key: string, use: () => Promise<T>): Promise<T> {
    const { queue, maxWaitMs } = this.#dependencies;
    const { signal, query } = this.#call;
    const patience = AbortSignal.timeout(this.#leftMs());
    let isWaiting = true;
    try {
      return await queue.run(
        { key, tenant: query.tenant },
        () => {
          isWaiting = false;
          return use();
        },
        AbortSignal.any([signal, patience]),
      );
    } catch (error) {
      throw isWaiting && patience.aborted && !signal.aborted ? waitedTooLong(maxWaitMs) : error;
    }
  }

  /** What `use` answers, given up or not; gives back the place that it was told to hold. */
  async #settled(
    ground: Ground,
    use: (hold: (leave: () => void) => void) => Promise<Answered>,
  ): Promise<EngineAnswer> {
    const { signal } = this.#call;
    let leave = (): void => undefined;
    try {
      const { context, decoded } = await use((giveBack) => {
        leave = giveBack;
      });
      return this.#result(ground, decoded, context);
    } catch (error) {
      if (!signal.aborted || error !== signal.reason) throw error;
      return this.#result(ground, nothingDecoded, undefined);
    } finally {
      leave();
    }
  }

  #start(): void {
    this.#startedMs ??= this.#dependencies.clock.monotonicMs();
  }

  /**
   * Takes the context, waiting for memory that other queries hold. What is parked stays held until
   * the answer's end, so that room is needed for new rows only.
   */
  async #acquire(record: ContextRecord, ground: Ground, parkedBytes = 0): Promise<LoadedContext> {
    const { loaded } = this.#dependencies;
    const tailTokens = ground.ids.length + this.#call.query.sampling.maxTokens;
    const { keepRatio } = ground;
    const claim = loaded.claim({ record, keepRatio, tailTokens, parkedBytes });
    try {
      return await this.#whenRoom(() => this.#load(claim));
    } finally {
      claim.close();
    }
  }

  async #load(claim: Claim): Promise<LoadedContext> {
    const { scheduler, clock, loaded, maxWaitMs } = this.#dependencies;
    let startedMs: number | undefined;
    const onPiece = (): void => {
      this.#start();
      startedMs ??= clock.monotonicMs();
      this.#givenBack = loaded.givenBack;
    };
    const leftMs = (): number => this.#leftMs();
    const { signal } = this.#call;
    try {
      return await loadContext(scheduler, { claim, onPiece, leftMs, maxWaitMs, signal });
    } finally {
      if (startedMs !== undefined) this.#loadMs += clock.monotonicMs() - startedMs;
    }
  }

  /** Takes memory, again whenever others gave some back, until the query has waited too long. */
  async #whenRoom<T>(take: () => Promise<T>): Promise<T> {
    const { loaded } = this.#dependencies;
    const { signal } = this.#call;
    for (;;) {
      try {
        this.#givenBack = loaded.givenBack;
        return await take();
      } catch (error) {
        const isFull = error instanceof ReadonceError && error.code === 'overloaded';
        const leftMs = this.#leftMs();
        if (!isFull || leftMs === 0) throw error;
        const patience = AbortSignal.timeout(leftMs);
        const given = loaded.room(this.#givenBack, AbortSignal.any([signal, patience]));
        await given.catch((reason: unknown) => {
          throw patience.aborted && !signal.aborted ? error : reason;
        });
      }
    }
  }

  #decode(context: LoadedContext, tail: Tail, ground: Ground): Promise<Decoded> {
    const { checkpoint } = this.#dependencies;
    const { query, onText, signal } = this.#call;
    const text = createAnswerText({
      tokenBytes: (id) => checkpoint.tokenizer.tokenBytes(id),
      stop: query.sampling.stop,
      emit: onText,
    });
    const { ids, startPosition } = ground;
    return decode(this.#dependencies, {
      context: context.view,
      tail,
      startPosition,
      ids,
      sampling: query.sampling,
      text,
      signal,
    });
  }

  #result(
    { queryTokens, contextTokens: documentTokens, keepRatio, storedBytes }: Ground,
    decoded: Decoded,
    context: LoadedContext | undefined,
  ): EngineAnswer {
    const nowMs = this.#dependencies.clock.monotonicMs();
    const { firstTokenAtMs = nowMs, completionTokens } = decoded;
    const decodeSeconds = (nowMs - firstTokenAtMs) / 1000;
    const pairs = context?.view.lengths.reduce((sum, length) => sum + length, 0) ?? 0;
    return {
      answer: decoded.text,
      finishReason: decoded.finishReason,
      usage: {
        contextTokens: documentTokens,
        queryTokens,
        completionTokens,
        prefilledTokens: decoded.prefilledTokens,
      },
      cache: {
        source: context?.source ?? this.#dependencies.runtime.memory,
        keepRatio,
        pairs,
        bytes: storedBytes(pairs),
      },
      timings: {
        queueMs: (this.#startedMs ?? nowMs) - this.#arrivedMs,
        loadMs: this.#loadMs,
        firstTokenMs: decoded.firstTokenAtMs === undefined ? 0 : firstTokenAtMs - this.#arrivedMs,
        totalMs: nowMs - this.#arrivedMs,
        tokensPerSecond:
          completionTokens > 1 && decodeSeconds > 0 ? (completionTokens - 1) / decodeSeconds : 0,
      },
    };
  }
}

const nothingDecoded: Decoded = {
  text: '',
  finishReason: 'cancelled',
  prefilledTokens: 0,
  completionTokens: 0,
  firstTokenAtMs: undefined,
  pendingIds: new Int32Array(0),
};

function storedGround(record: ContextRecord, keepRatio: number, ids: Int32Array): Ground {
  const precision = resolvePrecision(record.compression.precision);
  return {
    ids,
    queryTokens: ids.length,
    startPosition: contextTokens(record),
    contextTokens: record.document.tokens,
    keepRatio,
    storedBytes: (pairs) => 2 * precision.encodedBytes(pairs, record.layout.headDim),
  };
}
