import { assert } from '../core/assert.ts';
import type { ContextRecord } from '../core/context.ts';
import { headCount } from '../core/kv-layout.ts';
import type { ContextCache, ContextView, Runtime } from '../runtime/runtime.ts';
import type { ContextStore } from '../../storage/context-store.ts';
import { contextLengths, fillRows, requireUnchanged } from './context-rows.ts';
import { GivenBack } from './given-back.ts';
import { HostCopies } from './host-copies.ts';
import { IdleTails } from './idle-tails.ts';
import { seenRows, sizeOf, type Entry, type SeenRows } from './loaded-entry.ts';
import { noRoom, ranOut, tooLarge } from './pool-errors.ts';

/** A context in memory, for one query. */
export interface LoadedContext {
  /** The rows of the keepRatio that was asked for. */
  readonly view: ContextView;
  /**
   * `host`, `device`: all these rows were in that memory; `disk`: some were read; `none`: nothing
   * is stored.
   */
  readonly source: 'device' | 'host' | 'disk' | 'none';
}

/** Memory set aside for a context that is not stored, until it is released. */
export interface Loan {
  readonly bytes: number;
}

/** What a query needs of its context. */
export interface LoadRequest {
  readonly record: ContextRecord;
  /** At most the record's. */
  readonly keepRatio: number;
  /** Rows that the query and its answer need behind the context. */
  readonly tailTokens: number;
  /** Bytes that the asker itself has parked, and goes on to hold; default 0. */
  readonly parkedBytes?: number;
}

/** Where contexts are read from and held, and how much they may take. */
export interface LoadedContextsOptions {
  readonly runtime: Runtime;
  readonly store: ContextStore;
  /** Bytes of loaded contexts and of tails, over which idle contexts are shortened or dropped. */
  readonly poolBytes: number;
}

/** Memory that a query holds. */
interface Hold {
  readonly entry: Entry | undefined;
  readonly seen: SeenRows | undefined;
  readonly tailBytes: number;
}

/**
 * What an idle context may be left with when room is needed: these fractions of the document's rows
 * that each head holds, the most important ones. With less than the last, little would be saved
 * when it is loaded again: it is dropped.
 */
const shortenedTo = [1 / 2, 1 / 4, 1 / 8];

/**
 * The engine's pool of loaded contexts, each once, with as many rows as were asked for; all queries
 * on a context share it. A query at a smaller keepRatio than is loaded sees fewer rows; one at a
 * larger keepRatio has the missing rows read. When the pool is full, contexts give way from the
 * least recently used one on: each is shortened by as much as is needed, or dropped. Those in use
 * never are: where these leave no room, idle sessions are ended for what they have parked. On a
 * device, host memory keeps copies of what gave way.
 */
export class LoadedContexts {
  readonly #options: LoadedContextsOptions;
  /** By context id, in order of last use. */
  readonly #entries = new Map<string, Entry>();
  /** Deleted or replaced while in use: they go with their last query. */
  readonly #leaving = new Set<Entry>();
  readonly #holds = new Map<LoadedContext | Loan, Hold>();
  readonly #idleTails = new IdleTails();
  readonly #givenBack = new GivenBack();
  readonly #copies: HostCopies | undefined;

  constructor(options: LoadedContextsOptions) {
    this.#options = options;
    const { hostTier } = options.runtime;
    this.#copies = hostTier && new HostCopies(hostTier);
  }

  /** Bytes of memory that contexts hold, and that is set aside for tails. */
  get sizeBytes(): number {
    return this.#contextBytes() + this.#tailBytes();
  }

  /**
   * Takes a context for one query, reading what of it is not in memory. Synchronous: one piece of
   * work of the device.
   * @throws ReadonceError `not_found`, `conflict` (deleted or replaced meanwhile),
   * `corrupt_record`, `out_of_memory`, `overloaded`
   */
  acquire(request: LoadRequest): LoadedContext {
    return this.withRoom(() => this.#acquire(request));
  }

  /**
   * Runs what takes memory of the runtime. Where that runs out, though the pool has room, idle
   * contexts give way one after another, and it is tried again: `work` must leave nothing half-done
   * when it fails.
   */
  withRoom<T>(work: () => T): T {
    for (;;) {
      try {
        return work();
      } catch (error) {
        const idle = [...this.#entries.values()].find(({ users }) => users === 0);
        if (!ranOut(error) || idle === undefined) throw error;
        this.#giveWay(idle, Infinity);
      }
    }
  }

  #acquire({ record, keepRatio, tailTokens, parkedBytes = 0 }: LoadRequest): LoadedContext {
    const tailBytes = this.#rowsBytes(tailTokens * record.pairCounts.length);
    const loaded = this.#current(record);
    const lengths = loaded?.seen.get(keepRatio)?.lengths ?? this.#readLengths(record, keepRatio);
    const { poolBytes } = this.#options;
    const ownBytes = this.#bytesOf(lengths) + tailBytes + parkedBytes;
    if (ownBytes > poolBytes) throw tooLarge(ownBytes, poolBytes);
    const { entry, source } = this.#hold(record, { lengths, tailBytes });
    const seen = this.#seen(entry, keepRatio, lengths);
    seen.users++;
    entry.users++;
    // Re-inserting makes it the most recently used.
    this.#entries.delete(record.id);
    this.#entries.set(record.id, entry);
    return this.#handOut({ view: seen.view, source }, { entry, seen, tailBytes });
  }

  /**
   * Sets memory aside for a context that is not stored, which the caller makes.
   * @param rows of each head, the tail's included
   * @throws ReadonceError `out_of_memory`, `overloaded`
   */
  borrow(rows: number): Loan {
    const bytes = this.#rowsBytes(rows * headCount(this.#options.runtime.layout));
    this.#makeRoom(bytes, undefined);
    return this.#handOut({ bytes }, { entry: undefined, seen: undefined, tailBytes: bytes });
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

  #giveBack(held: LoadedContext | Loan, tailBytes: number): void {
    const hold = this.#holds.get(held);
    assert(hold !== undefined, 'expected a context that is held');
    this.#holds.set(held, { entry: undefined, seen: undefined, tailBytes });
    const { entry, seen } = hold;
    if (seen !== undefined) seen.users--;
    if (entry !== undefined) {
      entry.users--;
      if (entry.users === 0 && this.#leaving.delete(entry)) entry.cache.close();
    }
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
    const entry = this.#entries.get(contextId);
    if (entry !== undefined) this.#remove(entry);
    this.#copies?.drop(contextId);
  }

  close(): void {
    this.#copies?.close();
    for (const entry of [...this.#entries.values(), ...this.#leaving]) entry.cache.close();
    this.#entries.clear();
    this.#leaving.clear();
    this.#holds.clear();
  }

  #handOut<Held extends LoadedContext | Loan>(held: Held, hold: Hold): Held {
    this.#holds.set(held, hold);
    return held;
  }

  /** The entry of a context, unless it is of an earlier one that was deleted and made again. */
  #current(record: ContextRecord): Entry | undefined {
    const entry = this.#entries.get(record.id);
    if (entry === undefined || entry.record.createdAtMs === record.createdAtMs) return entry;
    this.#remove(entry);
    return undefined;
  }

  #readLengths(record: ContextRecord, keepRatio: number): Uint32Array {
    const { store } = this.#options;
    const lengths = contextLengths(store, record, keepRatio);
    requireUnchanged(store, record);
    return lengths;
  }

  /** An entry that has at least `lengths` rows in each head, and room for a tail. */
  #hold(
    record: ContextRecord,
    needed: { readonly lengths: Uint32Array; readonly tailBytes: number },
  ): { readonly entry: Entry; readonly source: LoadedContext['source'] } {
    const { runtime, poolBytes } = this.#options;
    const { lengths, tailBytes } = needed;
    const restored = this.#restore(record, needed);
    if (restored !== undefined) return { entry: restored, source: 'host' };
    const loaded = this.#entries.get(record.id);
    if (loaded === undefined) {
      this.#makeRoom(this.#bytesOf(lengths) + tailBytes, undefined);
      return { entry: this.#load(record, lengths, undefined), source: 'disk' };
    }
    const held = loaded.cache.lengths;
    const isHeld = lengths.every((length, head) => length <= (held[head] as number));
    const source = isHeld ? runtime.memory : 'disk';
    if (loaded.users > 0 && isHeld) {
      this.#makeRoom(tailBytes, loaded);
      return { entry: loaded, source };
    }
    const all = lengths.map((length, head) => Math.max(length, held[head] as number));
    if (loaded.users > 0) {
      // Those who use it keep what they see; both are in memory until they are done.
      this.#makeRoom(this.#bytesOf(all) + tailBytes, loaded);
      const entry = this.#load(record, all, loaded.cache);
      this.#remove(loaded);
      return { entry, source };
    }
    // Rows that are there are kept, unless there is no room for them.
    const room = poolBytes - this.#bytesInUse() - tailBytes;
    const rows = this.#bytesOf(all) <= room ? all : lengths;
    this.#makeRoom(this.#bytesOf(rows) + tailBytes, loaded);
    if (rows.some((length, head) => length !== held[head])) this.#resize(loaded, rows);
    return { entry: loaded, source };
  }

  #load(record: ContextRecord, lengths: Uint32Array, known: ContextCache | undefined): Entry {
    const cache = this.#options.runtime.createContext(lengths);
    try {
      if (known !== undefined) cache.copyFrom(known);
      fillRows(this.#options.store, record, { cache, from: known?.lengths });
      return { record, cache, seen: new Map(), users: 0 };
    } catch (error) {
      cache.close();
      throw error;
    }
  }

  /** An entry with rows of a copy in host memory, where that is sooner than to read them. */
  #restore(
    record: ContextRecord,
    { lengths, tailBytes }: { readonly lengths: Uint32Array; readonly tailBytes: number },
  ): Entry | undefined {
    const loaded = this.#entries.get(record.id);
    const held = loaded?.cache.lengths;
    const isHeld = held !== undefined && lengths.every((length, i) => length <= (held[i] ?? 0));
    if (isHeld || (loaded?.users ?? 0) > 0) return undefined;
    const copy = this.#copies?.find(record, lengths);
    if (copy === undefined) return undefined;
    const bytes = this.#bytesOf(copy.covering(lengths)) + tailBytes;
    if (bytes > this.#options.poolBytes - this.#bytesInUse()) return undefined;
    if (loaded !== undefined) this.#remove(loaded);
    try {
      const cache = this.#copies?.restore(copy, lengths, () => this.#makeRoom(bytes, undefined));
      return cache && { record, cache, seen: new Map(), users: 0 };
    } catch (error) {
      // What comes back of a copy may be more than is asked for, which is read.
      if (!ranOut(error)) throw error;
      return undefined;
    }
  }

  /** Gives an idle entry other memory, and reads the rows that it lacks. */
  #resize(entry: Entry, lengths: Uint32Array): void {
    assert(entry.users === 0, 'expected an idle context');
    for (const { view } of entry.seen.values()) view.close();
    entry.seen.clear();
    const from = entry.cache.lengths.slice();
    try {
      entry.cache.resize(lengths);
      fillRows(this.#options.store, entry.record, { cache: entry.cache, from });
    } catch (error) {
      // It has rows that were never filled.
      this.#remove(entry);
      throw error;
    }
  }

  #seen(entry: Entry, keepRatio: number, lengths: Uint32Array): SeenRows {
    try {
      return seenRows(entry, keepRatio, lengths);
    } catch (error) {
      // Its rows are not all there.
      this.#remove(entry);
      throw error;
    }
  }

  #remove(entry: Entry): void {
    this.#entries.delete(entry.record.id);
    if (entry.users > 0) this.#leaving.add(entry);
    else entry.cache.close();
  }

  #bytesOf(lengths: Uint32Array): number {
    return this.#rowsBytes(lengths.reduce((sum, length) => sum + length, 0));
  }

  #rowsBytes(rows: number): number {
    return rows * this.#options.runtime.rowBytes;
  }

  #contextBytes(): number {
    return sizeOf([...this.#entries.values(), ...this.#leaving]);
  }

  #tailBytes(): number {
    return [...this.#holds.values()].reduce((sum, { tailBytes }) => sum + tailBytes, 0);
  }

  #bytesInUse(): number {
    const used = [...this.#entries.values()].filter(({ users }) => users > 0);
    return sizeOf([...used, ...this.#leaving]) + this.#tailBytes();
  }

  /** Makes room for `bytes` beside what is in use. `kept` stays; idle, it is part of `bytes`. */
  #makeRoom(bytes: number, kept: Entry | undefined): void {
    const { poolBytes } = this.#options;
    if (bytes > poolBytes) throw tooLarge(bytes, poolBytes);
    const heldBytes = this.#bytesInUse();
    const isFull = heldBytes + bytes > poolBytes;
    if (isFull && !this.#idleTails.giveBack(heldBytes + bytes - poolBytes)) {
      throw noRoom({ bytes, poolBytes, heldBytes });
    }
    const idle = [...this.#entries.values()].filter((entry) => entry !== kept && entry.users === 0);
    let missingBytes = sizeOf(idle) + this.#bytesInUse() + bytes - poolBytes;
    for (const entry of idle) {
      if (missingBytes <= 0) return;
      missingBytes -= this.#giveWay(entry, missingBytes);
    }
  }

  /** Shortens an idle context until it has given back `missingBytes`, or drops it. */
  #giveWay(entry: Entry, missingBytes: number): number {
    const { cache, record } = entry;
    const sizeBytes = cache.sizeBytes;
    this.#copies?.keep(record, cache);
    for (const fraction of shortenedTo) {
      const lengths = cache.lengths.map(
        (held) => record.prefixTokens + Math.floor(fraction * (held - record.prefixTokens)),
      );
      const freedBytes = sizeBytes - this.#bytesOf(lengths);
      if (freedBytes < missingBytes) continue;
      this.#resize(entry, lengths);
      return sizeBytes - cache.sizeBytes;
    }
    this.#remove(entry);
    return sizeBytes;
  }
}
