import { setImmediate } from 'node:timers/promises';
import type { Clock } from '../core/clock.ts';
import type { Closeable } from '../core/closeable.ts';
import { ReadonceError } from '../core/errors.ts';
import { untilAborted } from '../core/until-aborted.ts';
import { firstTokens, type ForwardSlot, type Logits, type Runtime } from '../runtime/runtime.ts';

/** Who wants to run: what fairness looks at. */
export interface Asker {
  readonly tenant: string;
  /** What the query is asked of. */
  readonly contextId: string;
  /** How long it may still wait; default `maxWaitMs`, which is how long it may in all. */
  readonly leftMs?: number;
}

/** How much runs and waits at once. */
export interface SchedulerLimits {
  /** Queries that hold a tail and compute; others wait for admission. */
  readonly maxRunning: number;
  /** How long a query may wait for admission. */
  readonly maxWaitMs: number;
}

/** What a scheduler computes with, and its bounds. */
export interface SchedulerOptions extends SchedulerLimits {
  readonly runtime: Pick<Runtime, 'forward'>;
  readonly clock: Clock;
  /** Runs a call, again when others have given way to it; default: once. */
  readonly withRoom?: (<T>(call: () => T) => T) | undefined;
}

/** Tokens of one call that begins queries or continues one: about what two long steps take. */
const callTokens = 128;

interface Waiting {
  readonly slot: ForwardSlot;
  readonly resolve: (logits: Logits) => void;
  readonly reject: (error: unknown) => void;
}

/** A piece of work that is no query's tokens. */
interface Piece {
  readonly work: () => void;
  readonly refuse: (error: unknown) => void;
}

interface Queued {
  readonly asker: Asker;
  readonly enter: () => void;
}

/**
 * Who computes next: the scheduling policy of an engine, whole.
 *
 * *Admission.* At most `maxRunning` queries run. A place that gets free goes to the waiting query
 * whose tenant has the fewest running, then to the one whose context has the fewest, then to the
 * one that came first: neither a tenant nor a favourite document can keep the others out. Nobody
 * waits longer than `maxWaitMs`.
 *
 * *Rounds.* The device does one bounded call at a time. A round is, in this order:
 * 1. a step: the next token of every running answer, all of them in one call. Answers join and
 *    leave between any two steps;
 * 2. the first tokens of queries that have none yet, first come first served: as many together as
 *    fit `callTokens`, or as many tokens of one longer question;
 * 3. pieces of other work, as long as they have less time behind them than the round had: of
 *    loading contexts that queries wait for and of ingestions by turns, a load first.
 *
 * *Failures.* A call that finds no memory is tried again while others give way (`withRoom`). Where
 * one of several slots fails, its slots are computed one by one, each in place of a step, and only
 * those fail that fail alone: a tail that finds no memory ends one answer.
 *
 * *Shares.* So a large document gets half of the device beside running answers, whatever they
 * take, and all of it when nobody asks. A piece is as long as it is; it begins if at least half of
 * it is still due, judged by the one before, and what it takes too much or too little is evened out
 * in the next rounds. Two steps are therefore never further apart than two rounds and two pieces,
 * of what comes here. Few pieces are long: a document is tokenised in one, and a context that comes
 * back from host memory is copied in one. What is read from the store comes in many.
 * What the engine's thread does beside comes on top: questions are tokenised as they come, and rows
 * encoded and written to the store some MiB at a time.
 * What pieces did not take up is lost: who comes late cannot stop the answers to catch up.
 */
export class Scheduler implements Closeable {
  readonly #options: SchedulerOptions;
  readonly #queued: Queued[] = [];
  readonly #running: Asker[] = [];
  #steps: Waiting[] = [];
  readonly #questions: Waiting[] = [];
  /** Of a call that failed: each is computed by itself, to see which of them fails. */
  readonly #alone: Waiting[] = [];
  readonly #loads: Piece[] = [];
  readonly #pieces: Piece[] = [];
  /** Whether the last piece was of a load. */
  #wasLoad = false;
  /** Time of the last piece. */
  #pieceMs = 0;
  /** Time that is due to pieces; negative if they had more than their half. */
  #dueMs = 0;
  #isLooping = false;
  #isClosed = false;

  constructor(options: SchedulerOptions) {
    this.#options = options;
  }

  /** Queries that run. */
  get running(): number {
    return this.#running.length;
  }

  /**
   * Waits for a place among the running queries; returns what gives it back.
   * @throws ReadonceError `overloaded` after `maxWaitMs`, `engine_unavailable` after `close`; the
   * signal's reason if it is aborted while waiting
   */
  async admit(asker: Asker, signal: AbortSignal): Promise<() => void> {
    this.#checkOpen();
    signal.throwIfAborted();
    // A place is this object: the same asker may have several.
    const place = { ...asker };
    if (this.#running.length >= this.#options.maxRunning || this.#queued.length > 0) {
      await this.#waitForPlace(place, signal);
    } else {
      this.#running.push(place);
    }
    return () => this.#giveBack(place);
  }

  /** Appends a slot's tokens to its tail; the logits after the last of them. */
  forward(slot: ForwardSlot): Promise<Logits> {
    return new Promise((resolve, reject) => {
      if (this.#isClosed) {
        reject(closing());
        return;
      }
      const isStep = slot.tail.length > 0 && slot.ids.length === 1;
      (isStep ? this.#steps : this.#questions).push({ slot, resolve, reject });
      this.#start();
    });
  }

  /**
   * Runs `work` (synchronous, one bounded piece) when it is the turn of such work.
   * @throws the signal's reason if it is aborted by then; `engine_unavailable` after `close`
   */
  piece<T>(work: () => T, signal?: AbortSignal): Promise<T> {
    return this.#wait(this.#pieces, work, signal);
  }

  /** As `piece`, before other pieces: what a query needs before its first tokens. */
  load<T>(work: () => T, signal?: AbortSignal): Promise<T> {
    return this.#wait(this.#loads, work, signal);
  }

  /** Refuses what waits; the call that runs ends. */
  close(): void {
    this.#isClosed = true;
    const lines = [this.#steps, this.#questions, this.#alone];
    const waiting = lines.flatMap((line) => line.splice(0));
    for (const { reject } of waiting) reject(closing());
    const pieces = [...this.#loads.splice(0), ...this.#pieces.splice(0)];
    for (const { refuse } of pieces) refuse(closing());
    for (const { enter } of this.#queued.splice(0)) enter();
  }

  #wait<T>(line: Piece[], work: () => T, signal: AbortSignal | undefined): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#isClosed) {
        reject(closing());
        return;
      }
      line.push({
        work: () => {
          try {
            signal?.throwIfAborted();
            resolve(work());
          } catch (error) {
            reject(error);
          }
        },
        refuse: reject,
      });
      this.#start();
    });
  }

  async #waitForPlace(asker: Asker, signal: AbortSignal): Promise<void> {
    const { maxWaitMs } = this.#options;
    let queued: Queued | undefined;
    const entered = new Promise<void>((resolve) => {
      queued = { asker, enter: resolve };
      this.#queued.push(queued);
    });
    const patience = new AbortController();
    const { leftMs = maxWaitMs } = asker;
    const timer = setTimeout(() => patience.abort(waitedTooLong(maxWaitMs)), leftMs);
    try {
      await untilAborted(entered, AbortSignal.any([signal, patience.signal]));
    } catch (error) {
      const index = this.#queued.findIndex((each) => each === queued);
      if (index !== -1) this.#queued.splice(index, 1);
      // It may have got its place in the same moment.
      else this.#giveBack(asker);
      throw error;
    } finally {
      clearTimeout(timer);
    }
    this.#checkOpen();
  }

  #giveBack(place: Asker): void {
    const index = this.#running.indexOf(place);
    if (index === -1) return;
    this.#running.splice(index, 1);
    this.#admitNext();
  }

  #admitNext(): void {
    if (this.#isClosed || this.#running.length >= this.#options.maxRunning) return;
    const runningOf = (key: 'tenant' | 'contextId', asker: Asker): number =>
      this.#running.filter((running) => running[key] === asker[key]).length;
    let best: { readonly index: number; readonly load: readonly [number, number] } | undefined;
    for (const [index, { asker }] of this.#queued.entries()) {
      const load = [runningOf('tenant', asker), runningOf('contextId', asker)] as const;
      const isLess =
        best === undefined ||
        load[0] < best.load[0] ||
        (load[0] === best.load[0] && load[1] < best.load[1]);
      if (isLess) best = { index, load };
    }
    if (best === undefined) return;
    const [queued] = this.#queued.splice(best.index, 1);
    if (queued === undefined) return;
    this.#running.push(queued.asker);
    queued.enter();
  }

  #start(): void {
    if (!this.#isLooping) void this.#loop();
  }

  async #loop(): Promise<void> {
    this.#isLooping = true;
    // Lets messages in between two calls, which block the event loop, and lets answers ask for
    // their next token, and ingestions for their next piece.
    for (await setImmediate(); this.#turn(); await setImmediate());
    this.#isLooping = false;
  }

  /** Steps and questions, or a piece; false if there was nothing to do. */
  #turn(): boolean {
    const isDue = this.#dueMs > 0 && this.#dueMs >= this.#pieceMs / 2;
    if (isDue && this.#runPiece()) return true;
    if (this.#runQueries()) return true;
    const ran = this.#runPiece();
    // Nobody had to wait for it.
    this.#dueMs = 0;
    return ran;
  }

  #runQueries(): boolean {
    const { clock } = this.#options;
    const startMs = clock.monotonicMs();
    const alone = this.#alone.splice(0, 1);
    const stepped = this.#compute(alone.length > 0 ? alone : this.#steps.splice(0));
    const questioned = this.#compute(this.#nextQuestions());
    this.#dueMs = Math.min(this.#dueMs, this.#pieceMs / 2) + clock.monotonicMs() - startMs;
    return stepped || questioned;
  }

  #runPiece(): boolean {
    const [first, second] = this.#wasLoad
      ? [this.#pieces, this.#loads]
      : [this.#loads, this.#pieces];
    const line = first.length > 0 ? first : second;
    const piece = line.shift();
    if (piece === undefined) return false;
    this.#wasLoad = line === this.#loads;
    const startMs = this.#options.clock.monotonicMs();
    piece.work();
    this.#pieceMs = this.#options.clock.monotonicMs() - startMs;
    this.#dueMs -= this.#pieceMs;
    return true;
  }

  /** Questions for one call: the first one, and those that can begin together with it. */
  #nextQuestions(): readonly Waiting[] {
    const [first] = this.#questions;
    if (first === undefined || !begins(first)) return this.#questions.splice(0, 1);
    const together: Waiting[] = [];
    let tokens = 0;
    for (const waiting of this.#questions) {
      const next = tokens + waiting.slot.ids.length;
      if (!begins(waiting) || (together.length > 0 && next > callTokens)) continue;
      together.push(waiting);
      tokens = next;
    }
    for (const each of together) this.#questions.splice(this.#questions.indexOf(each), 1);
    return together;
  }

  #compute(batch: readonly Waiting[]): boolean {
    if (batch.length === 0) return false;
    const { runtime, withRoom = once } = this.#options;
    const slots = batch.map(({ slot }) => slot);
    const rows = slots.map(({ tail }) => tail.length);
    try {
      const logits = withRoom(() => runtime.forward(slots));
      for (const [i, { resolve }] of batch.entries()) resolve(logits[i] as Logits);
    } catch (error) {
      const isUndone = slots.every(({ tail }, i) => tail.length === rows[i]);
      if (batch.length > 1 && isUndone) this.#alone.push(...batch);
      else for (const { reject } of batch) reject(error);
    }
    return true;
  }

  #checkOpen(): void {
    if (this.#isClosed) throw closing();
  }
}

function once<T>(call: () => T): T {
  return call();
}

function begins({ slot }: Waiting): boolean {
  return slot.tail.length === 0 && slot.ids.length <= firstTokens;
}

function closing(): ReadonceError {
  return new ReadonceError('engine_unavailable', 'The engine is shutting down', {
    retryAfterSeconds: 1,
  });
}

/** What a query is told that waited for its turn as long as it may. */
export function waitedTooLong(maxWaitMs: number): ReadonceError {
  return new ReadonceError(
    'overloaded',
    `Expected a turn within ${maxWaitMs} ms but other queries are still running: try again later`,
    { retryAfterSeconds: 2, details: { maxWaitMs } },
  );
}
