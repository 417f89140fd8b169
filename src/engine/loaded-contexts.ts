import { assert } from '../core/assert.ts';
import type { Closeable } from '../core/closeable.ts';
import { headCount } from '../core/kv-layout.ts';
import { ContextPool } from './context-pool.ts';
import { requireUnchanged } from './context-rows.ts';
import { GivenBack } from './given-back.ts';
import { IdleTails } from './idle-tails.ts';
import type {
  Claim,
  LoadedContext,
  LoadedContextsOptions,
  LoadRequest,
  Loan,
} from './loaded-context.ts';
import { covers, rememberLengths, type Entry, type SeenRows } from './loaded-entry.ts';
import { ranOut, tooLarge } from './pool-errors.ts';

/** Memory that a query holds. */
interface Hold {
  readonly entry: Entry | undefined;
  readonly seen: SeenRows | undefined;
  readonly tailBytes: number;
}

type Held = LoadedContext | Loan | Claiming;

/** A query that waits for its context. */
interface Claiming {
  readonly request: LoadRequest;
  /** Rows of each head, once they are known. */
  lengths: Uint32Array | undefined;
  /** What it holds meanwhile. */
  taken: Taken | undefined;
}

interface Taken {
  readonly entry: Entry;
  readonly lengths: Uint32Array;
  readonly tailBytes: number;
  readonly source: LoadedContext['source'];
  readonly isBehindOther: boolean;
  /** False if the entry will have too few rows: they are read when those are there. */
  readonly isEnough: boolean;
}

/**
 * The engine's loaded contexts, and who holds what of them. All queries on a context share it. A
 * query at a smaller keepRatio than is loaded sees fewer rows; one at a larger keepRatio has the
 * missing rows read. Where those in use leave no room, idle sessions are ended for what they have
 * parked.
 */
export class LoadedContexts implements Closeable {
  readonly #options: LoadedContextsOptions;
  readonly #pool: ContextPool;
  readonly #holds = new Map<Held, Hold>();
  readonly #idleTails = new IdleTails();
  readonly #givenBack = new GivenBack();

  constructor(options: LoadedContextsOptions) {
    this.#options = options;
    this.#pool = new ContextPool(options, {
      bytes: () => this.#tailBytes(),
      giveBack: (bytes) => this.#idleTails.giveBack(bytes),
    });
  }

  /** Bytes of memory that contexts hold, and that is set aside for tails. */
  get sizeBytes(): number {
    return this.#pool.sizeBytes + this.#tailBytes();
  }

  /**
   * Runs what takes memory of the runtime. Where that runs out, though the pool has room, idle
   * contexts give way one after another, and it is tried again: `work` must leave nothing half-done
   * when it fails.
   */
  withRoom<T>(work: () => T): T {
    return this.#pool.withRoom(work);
  }

  /** Begins to take a context for one query; what of it is not in memory is read in pieces. */
  claim(request: LoadRequest): Claim {
    const claim: Claiming = { request, lengths: undefined, taken: undefined };
    return {
      get isBehindOther() {
        const { taken } = claim;
        return taken !== undefined && taken.isBehindOther && taken.entry.users > 1;
      },
      advance: () => this.withRoom(() => this.#advance(claim)),
      ready: async () => claim.taken?.entry.filling?.ready(),
      close: () => this.#abandon(claim),
    };
  }

  #advance(claim: Claiming): LoadedContext | undefined {
    const hadFailed = claim.taken?.entry.filling?.hasFailed ?? false;
    try {
      const taken = (claim.taken ??= this.#take(claim));
      if (!this.#pool.isFilled(taken.entry)) return undefined;
      if (taken.isEnough) return this.#handOut(claim, taken);
    } catch (error) {
      this.#abandon(claim);
      // Who found no memory began anew: so does this one.
      if (hadFailed && ranOut(error)) return undefined;
      throw error;
    }
    this.#abandon(claim);
    return undefined;
  }

  #take(claim: Claiming): Taken {
    const pool = this.#pool;
    const { record, keepRatio, tailTokens, parkedBytes = 0 } = claim.request;
    const tailBytes = pool.rowsBytes(tailTokens * record.pairCounts.length);
    const loaded = pool.current(record);
    const lengths = (claim.lengths ??= pool.lengthsOf(record, keepRatio));
    const { poolBytes } = this.#options;
    const ownBytes = pool.bytesOf(lengths) + tailBytes + parkedBytes;
    if (ownBytes > poolBytes) throw tooLarge(ownBytes, poolBytes);
    const isBehindOther = loaded?.filling !== undefined;
    const taken =
      isBehindOther && !covers(loaded.cache, lengths)
        ? { entry: loaded, source: 'disk' as const, tailBytes: 0, isEnough: false }
        : { ...pool.hold(record, { lengths, tailBytes }), tailBytes, isEnough: true };
    const { entry } = taken;
    rememberLengths(entry, keepRatio, lengths);
    pool.use(entry);
    this.#holds.set(claim, { entry, seen: undefined, tailBytes: taken.tailBytes });
    return { ...taken, lengths, isBehindOther };
  }

  #handOut(claim: Claiming, taken: Taken): LoadedContext {
    const { entry, lengths, source, tailBytes, isBehindOther } = taken;
    // It may have been deleted since it was filled.
    if (isBehindOther) requireUnchanged(this.#options.store, claim.request.record);
    const seen = this.#pool.seen(entry, claim.request.keepRatio, lengths);
    seen.users++;
    const context = { view: seen.view, source };
    this.#holds.set(context, { entry, seen, tailBytes });
    this.#holds.delete(claim);
    claim.taken = undefined;
    return context;
  }

  #abandon(claim: Claiming): void {
    claim.taken = undefined;
    if (!this.#holds.has(claim)) return;
    this.#giveBack(claim, 0);
    this.#holds.delete(claim);
  }

  /**
   * Sets memory aside for a context that is not stored, which the caller makes.
   * @param rows of each head, the tail's included
   * @throws ReadonceError `out_of_memory`, `overloaded`
   */
  borrow(rows: number): Loan {
    const bytes = this.#pool.rowsBytes(rows * headCount(this.#options.runtime.layout));
    this.#pool.makeRoom(bytes);
    const loan = { bytes };
    this.#holds.set(loan, { entry: undefined, seen: undefined, tailBytes: bytes });
    return loan;
  }

  /** Gives a context back, and the memory set aside for its tail; or memory that was borrowed. */
  release(held: LoadedContext | Loan): void {
    this.#giveBack(held, 0);
    this.#holds.delete(held);
    this.#idleTails.withdraw(held);
  }

  /**
   * Gives a context back, but not all of its tail's memory: a session keeps its tail. `release`
   * gives back that, too.
   */
  park(context: LoadedContext, tailBytes: number): void {
    this.#giveBack(context, tailBytes);
  }

  #giveBack(held: Held, tailBytes: number): void {
    const hold = this.#holds.get(held);
    assert(hold !== undefined, 'expected a context that is held');
    this.#holds.set(held, { entry: undefined, seen: undefined, tailBytes });
    const { entry, seen } = hold;
    if (seen !== undefined) seen.users--;
    if (entry !== undefined) this.#pool.leave(entry);
    this.#givenBack.add();
  }

  /** Lets others have what a session has parked, where nothing else makes room: `end` ends it. */
  offer(parked: LoadedContext, end: () => void): void {
    const sizeBytes = this.#holds.get(parked)?.tailBytes ?? 0;
    this.#idleTails.offer(parked, { sizeBytes, end });
    this.#givenBack.add();
  }

  /** Takes an offer back: the session is asked again. */
  withdraw(parked: LoadedContext): void {
    this.#idleTails.withdraw(parked);
  }

  /** How often memory was given back, or offered. */
  get givenBack(): number {
    return this.#givenBack.count;
  }

  /**
   * Settles when that was more often than `givenBack` times: whoever was refused as `overloaded`
   * may try again.
   */
  room(givenBack: number, signal: AbortSignal): Promise<void> {
    return this.#givenBack.beyond(givenBack, signal);
  }

  /** Forgets a context that was deleted; one in use goes when it is released. */
  drop(contextId: string): void {
    this.#pool.drop(contextId);
  }

  close(): void {
    this.#pool.close();
    this.#holds.clear();
  }

  #tailBytes(): number {
    return [...this.#holds.values()].reduce((sum, { tailBytes }) => sum + tailBytes, 0);
  }
}
