import { defined } from '../core/assert.ts';
import type { Clock } from '../core/clock.ts';
import type { Checkpoint } from '../model/checkpoint.ts';
import { firstTokens, type ContextView, type Logits, type Tail } from '../runtime/runtime.ts';
import type { AnswerText } from './answer-text.ts';
import type { EngineAnswer, SamplingOptions } from './protocol.ts';
import { createSampler } from './sampling.ts';
import type { Scheduler } from './scheduler.ts';

/** What decoding needs of an engine. */
export interface DecodeDependencies {
  readonly checkpoint: Checkpoint;
  readonly scheduler: Scheduler;
  readonly clock: Clock;
}

/** A question whose tokens are computed behind a context and what its tail holds. */
export interface DecodeCall {
  readonly context: ContextView;
  readonly tail: Tail;
  /** RoPE position of the first token that the tail does not hold. */
  readonly startPosition: number;
  readonly ids: Int32Array;
  readonly sampling: SamplingOptions;
  readonly text: AnswerText;
  readonly signal: AbortSignal;
}

/** How far an answer came. */
export interface Decoded {
  readonly text: string;
  readonly finishReason: EngineAnswer['finishReason'];
  /** Of the question, computed. */
  readonly prefilledTokens: number;
  /** Without the end token. */
  readonly completionTokens: number;
  /** Monotonic clock; undefined if there was none. */
  readonly firstTokenAtMs: number | undefined;
  /** Tokens of the answer that the tail does not hold: the last one, unless it was the end. */
  readonly pendingIds: Int32Array;
}

/** Extends a tail by a question, then by the answer token by token. An abort ends it in between. */
export async function decode(dependencies: DecodeDependencies, call: DecodeCall): Promise<Decoded> {
  const run = new DecodeRun(dependencies, call);
  try {
    await run.run();
  } catch (error) {
    // Whatever else went wrong is not hidden by a client that has gone away.
    if (!call.signal.aborted || error !== call.signal.reason) throw error;
  }
  call.text.finish();
  return run.result();
}

class DecodeRun {
  readonly #dependencies: DecodeDependencies;
  readonly #call: DecodeCall;
  #finishReason: Decoded['finishReason'] = 'cancelled';
  #position: number;
  #prefilledTokens = 0;
  #completionTokens = 0;
  #firstTokenAtMs: number | undefined;
  #pendingIds = new Int32Array(0);

  constructor(dependencies: DecodeDependencies, call: DecodeCall) {
    this.#dependencies = dependencies;
    this.#call = call;
    this.#position = call.startPosition;
  }

  async run(): Promise<void> {
    const { checkpoint, clock } = this.#dependencies;
    const { sampling, text } = this.#call;
    const sampler = createSampler(sampling);
    const endIds = new Set(checkpoint.config.endTokenIds);
    let logits = await this.#extend();
    for (;;) {
      const token = sampler.next(logits);
      this.#firstTokenAtMs ??= clock.monotonicMs();
      this.#pendingIds = Int32Array.of();
      if (endIds.has(token)) return this.#end('stop');
      this.#pendingIds = Int32Array.of(token);
      this.#completionTokens++;
      if (text.push(token) === 'stop') return this.#end('stop');
      if (this.#completionTokens >= sampling.maxTokens) return this.#end('length');
      logits = await this.#forward(this.#pendingIds);
    }
  }

  result(): Decoded {
    return {
      text: this.#call.text.text,
      finishReason: this.#finishReason,
      prefilledTokens: this.#prefilledTokens,
      completionTokens: this.#completionTokens,
      firstTokenAtMs: this.#firstTokenAtMs,
      pendingIds: this.#pendingIds,
    };
  }

  #end(finishReason: Decoded['finishReason']): void {
    this.#finishReason = finishReason;
  }

  /** Appends the question's tokens, in pieces that other questions can begin together with. */
  async #extend(): Promise<Logits> {
    const { ids } = this.#call;
    let logits: Logits | undefined;
    for (let start = 0; start < ids.length; start += firstTokens) {
      const piece = ids.subarray(start, start + firstTokens);
      logits = await this.#forward(piece);
      this.#prefilledTokens += piece.length;
    }
    return defined(logits, 'a token of the question');
  }

  async #forward(ids: Int32Array): Promise<Logits> {
    const { context, tail, signal } = this.#call;
    signal.throwIfAborted();
    const slot = { context, tail, ids, startPosition: this.#position };
    const logits = await this.#dependencies.scheduler.forward(slot);
    this.#position += ids.length;
    signal.throwIfAborted();
    return logits;
  }
}
