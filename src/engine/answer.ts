import type { Clock } from '../core/clock.ts';
import { concatenate } from '../core/concatenate.ts';
import { contextTokens, type ContextRecord } from '../core/context.ts';
import { ReadonceError } from '../core/errors.ts';
import type { Checkpoint } from '../model/checkpoint.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { resolveMethod, resolvePrecision } from '../compression/registry.ts';
import type { ContextStore } from '../../storage/context-store.ts';
import { createAnswerText, type AnswerText } from './answer-text.ts';
import type { DeviceTurns } from './device-turns.ts';
import { leastTokens } from './document.ts';
import type { KeyedQueue } from './keyed-queue.ts';
import type { LoadedContext, LoadedContexts } from './loaded-contexts.ts';
import type { EngineAnswer, EngineQuery } from './protocol.ts';
import { createSampler } from './sampling.ts';
import type { Stepper } from './stepper.ts';

/** What all answers of an engine share. Nothing of it is closed by an answer. */
export interface AnswerDependencies {
  readonly checkpoint: Checkpoint;
  readonly runtime: Runtime;
  readonly store: ContextStore;
  readonly turns: DeviceTurns;
  readonly stepper: Stepper;
  readonly loaded: LoadedContexts;
  readonly queue: KeyedQueue;
  readonly clock: Clock;
  /** Tokens of a query computed in one piece of work. */
  readonly sliceTokens: number;
}

/** One query. `onText` gets the pieces of the answer in order, all of them before the call ends. */
export interface AnswerCall {
  readonly query: EngineQuery;
  readonly onText: (text: string) => void;
  readonly signal: AbortSignal;
}

/**
 * Answers a query from a stored context: load, extend by the query's tokens, step. Nothing of the
 * document is computed. An aborted call resolves with `cancelled` and the text so far.
 * @throws ReadonceError `not_found`, `invalid_argument` (a keepRatio above the stored one),
 * `context_too_long`, `conflict` (deleted or replaced while it was loaded), `corrupt_record`,
 * `out_of_memory`, `overloaded`
 */
export async function answer(
  dependencies: AnswerDependencies,
  call: AnswerCall,
): Promise<EngineAnswer> {
  const arrivedMs = dependencies.clock.monotonicMs();
  const { source } = call.query;
  if (source.kind !== 'context' || call.query.turns.length !== 1) {
    throw new ReadonceError('unsupported', 'Expected one question to a context: not built yet');
  }
  const record = findContext(dependencies, source.contextId);
  const keepRatio = usedKeepRatio(record, source.keepRatio);
  const queryIds = encodeQuery(dependencies.checkpoint, record, call.query);
  return new AnswerRun(dependencies, call, { record, keepRatio, queryIds, arrivedMs }).run();
}

function findContext({ store, checkpoint }: AnswerDependencies, id: string): ContextRecord {
  const stored = store.get(id);
  if (stored === undefined) {
    throw new ReadonceError('not_found', `Expected the id of a stored context but got ${id}`);
  }
  const { model } = stored.record;
  if (model.fingerprint !== checkpoint.fingerprint) {
    throw new ReadonceError(
      'identity_mismatch',
      `Expected a context of model ${checkpoint.id} (${checkpoint.fingerprint}) but ${id} was ` +
        `made with ${model.id} (${model.fingerprint}): put the document again`,
    );
  }
  return stored.record;
}

function usedKeepRatio(record: ContextRecord, asked: number | undefined): number {
  const { keepRatio: stored, method } = record.compression;
  if (asked === undefined) return stored;
  if (asked < stored && resolveMethod(method).keepsAll) {
    throw new ReadonceError(
      'invalid_argument',
      `Expected 1 or nothing for keepRatio, since the pairs of method "${method}" have no order, ` +
        `but got ${asked}: put the document with a method that scores`,
    );
  }
  if (asked > stored) {
    throw new ReadonceError(
      'invalid_argument',
      `Expected a keepRatio of at most ${stored}, which the context was stored with, but got ` +
        `${asked}: put the document again with a larger one`,
      { details: { keepRatio: asked, storedKeepRatio: stored } },
    );
  }
  return asked;
}

/** Q and S: the query behind a blank line, as a user would go on, then the template's suffix. */
function encodeQuery(
  { tokenizer, template, config, id }: Checkpoint,
  record: ContextRecord,
  { turns, sampling }: EngineQuery,
): Int32Array {
  const query = turns.map(({ content }) => content).join('');
  const context = contextTokens(record);
  const tooLong = (queryTokens: number | string): ReadonceError =>
    new ReadonceError(
      'context_too_long',
      `Expected context, query and maxTokens to fit the ${config.contextLength} tokens of ${id} ` +
        `but got ${context} + ${queryTokens} + ${sampling.maxTokens}`,
      {
        details: {
          contextTokens: context,
          queryTokens,
          maxTokens: sampling.maxTokens,
          window: config.contextLength,
        },
      },
    );
  const room = config.contextLength - context - sampling.maxTokens;
  const atLeast = leastTokens(tokenizer, query, room);
  if (atLeast > room) throw tooLong(`at least ${atLeast}`);
  const ids = concatenate(tokenizer.encode(`\n\n${query}`), template.suffixIds);
  if (ids.length > room) throw tooLong(ids.length);
  return ids;
}

interface PreparedQuery {
  readonly record: ContextRecord;
  readonly keepRatio: number;
  readonly queryIds: Int32Array;
  readonly arrivedMs: number;
}

/** One query from its turn on. */
class AnswerRun {
  readonly #dependencies: AnswerDependencies;
  readonly #call: AnswerCall;
  readonly #request: PreparedQuery;
  #source: EngineAnswer['cache']['source'] = 'host';
  #startedMs = 0;
  #loadMs = 0;
  #firstTokenMs = 0;
  #prefilledTokens = 0;
  #completionTokens = 0;
  #pairs = 0;

  constructor(dependencies: AnswerDependencies, call: AnswerCall, request: PreparedQuery) {
    this.#dependencies = dependencies;
    this.#call = call;
    this.#request = request;
    this.#startedMs = request.arrivedMs;
  }

  async run(): Promise<EngineAnswer> {
    const { checkpoint, queue } = this.#dependencies;
    const { query, onText, signal } = this.#call;
    const { record } = this.#request;
    const text = createAnswerText({
      tokenBytes: (id) => checkpoint.tokenizer.tokenBytes(id),
      stop: query.sampling.stop,
      emit: onText,
    });
    let finishReason: EngineAnswer['finishReason'] = 'cancelled';
    try {
      finishReason = await queue.run(record.id, () => this.#useContext(text), signal);
    } catch (error) {
      // Whatever else went wrong is not hidden by a client that has gone away.
      if (!signal.aborted || error !== signal.reason) throw error;
    }
    text.finish();
    return this.#result(text.text, finishReason);
  }

  async #useContext(text: AnswerText): Promise<EngineAnswer['finishReason']> {
    const context = await this.#acquire();
    try {
      this.#pairs = context.cache.lengths.reduce((sum, length) => sum + length, 0);
      return await this.#decode(context, text);
    } finally {
      this.#dependencies.loaded.release(context);
    }
  }

  #acquire(): Promise<LoadedContext> {
    const { turns, clock, loaded } = this.#dependencies;
    const { record, keepRatio, queryIds } = this.#request;
    const tailTokens = queryIds.length + this.#call.query.sampling.maxTokens;
    return turns.run(
      'extend',
      () => {
        this.#startedMs = clock.monotonicMs();
        const context = loaded.acquire({ record, keepRatio, tailTokens });
        this.#source = context.source;
        this.#loadMs = clock.monotonicMs() - this.#startedMs;
        return context;
      },
      this.#call.signal,
    );
  }

  async #decode({ cache }: LoadedContext, text: AnswerText): Promise<EngineAnswer['finishReason']> {
    const { checkpoint, clock, stepper } = this.#dependencies;
    const { signal } = this.#call;
    const { sampling } = this.#call.query;
    const sampler = createSampler(sampling);
    const endIds = new Set(checkpoint.config.endTokenIds);
    let position = contextTokens(this.#request.record) + this.#request.queryIds.length;
    let logits = await this.#extend(cache);
    for (;;) {
      const token = sampler.next(logits);
      if (this.#firstTokenMs === 0) {
        this.#firstTokenMs = clock.monotonicMs() - this.#request.arrivedMs;
      }
      if (endIds.has(token)) return 'stop';
      this.#completionTokens++;
      if (text.push(token) === 'stop') return 'stop';
      if (this.#completionTokens >= sampling.maxTokens) return 'length';
      signal.throwIfAborted();
      logits = await stepper.step({
        cache,
        ids: Int32Array.of(token),
        startPosition: position++,
      });
    }
  }

  /** Appends the query's tokens in bounded pieces; the logits after the last. */
  async #extend(cache: LoadedContext['cache']): Promise<Float32Array> {
    const { runtime, turns, sliceTokens } = this.#dependencies;
    const { record, queryIds } = this.#request;
    let logits: Float32Array | undefined;
    for (let start = 0; start < queryIds.length; start += sliceTokens) {
      const slot = {
        cache,
        ids: queryIds.subarray(start, start + sliceTokens),
        startPosition: contextTokens(record) + start,
      };
      [logits] = await turns.run('extend', () => runtime.forward([slot]), this.#call.signal);
      this.#prefilledTokens += slot.ids.length;
    }
    return logits as Float32Array;
  }

  #result(text: string, finishReason: EngineAnswer['finishReason']): EngineAnswer {
    const { record, keepRatio, queryIds, arrivedMs } = this.#request;
    const precision = resolvePrecision(record.compression.precision);
    const totalMs = this.#dependencies.clock.monotonicMs() - arrivedMs;
    const decodeSeconds = (totalMs - this.#firstTokenMs) / 1000;
    const decoded = this.#completionTokens - 1;
    return {
      answer: text,
      finishReason,
      usage: {
        contextTokens: record.document.tokens,
        queryTokens: queryIds.length,
        completionTokens: this.#completionTokens,
        prefilledTokens: this.#prefilledTokens,
      },
      cache: {
        source: this.#source,
        keepRatio,
        pairs: this.#pairs,
        bytes: 2 * precision.encodedBytes(this.#pairs, record.layout.headDim),
      },
      timings: {
        queueMs: this.#startedMs - arrivedMs,
        loadMs: this.#loadMs,
        firstTokenMs: this.#firstTokenMs,
        totalMs,
        tokensPerSecond: decoded > 0 && decodeSeconds > 0 ? decoded / decodeSeconds : 0,
      },
    };
  }
}
