import { assert } from '../core/assert.ts';
import { systemClock } from '../core/clock.ts';
import type { Closeable } from '../core/closeable.ts';
import type { ContextRecord } from '../core/context.ts';
import type { ContextCache } from '../runtime/runtime.ts';
import { changed, contextLengths, requireUnchanged } from './context-rows.ts';
import { HostCopies } from './host-copies.ts';
import type { LoadedContext, LoadedContextsOptions } from './loaded-context.ts';
import { covers, seenRows, sizeOf, type Entry, type SeenRows } from './loaded-entry.ts';
import { mayHelp, noRoom, ranOut, tooLarge } from './pool-errors.ts';
import { loadPieceBytes, RowFilling } from './row-filling.ts';

/**
 * What an idle context may be left with when room is needed: these fractions of the document's rows
 * that each head holds, the most important ones. With less than the last, little would be saved
 * when it is loaded again: it is dropped.
 */
const shortenedTo = [1 / 2, 1 / 4, 1 / 8];

/** Memory set aside beside contexts, which counts as in use. */
export interface SetAside {
  bytes(): number;
  /** Has as much given back that need not be kept; none and false, if there is less of that. */
  giveBack(bytes: number): boolean;
}

/** What a query needs in memory. */
export interface NeededRows {
  /** Of each head. */
  readonly lengths: Uint32Array;
  /** To be set aside beside them. */
  readonly tailBytes: number;
}

/**
 * Contexts in memory, each once, and who gives way to whom. When the pool is full, contexts give
 * way from the least recently used one on: each is shortened by as much as is needed, or dropped.
 * Those in use, or being filled, never are. On a device, host memory keeps copies of what gave way.
 */
export class ContextPool implements Closeable {
  readonly #options: LoadedContextsOptions;
  readonly #setAside: SetAside;
  /** By context id, in order of last use. */
  readonly #entries = new Map<string, Entry>();
  /** Deleted or replaced while in use: they go with their last query. */
  readonly #leaving = new Set<Entry>();
  readonly #copies: HostCopies | undefined;

  constructor(options: LoadedContextsOptions, setAside: SetAside) {
    this.#options = options;
    this.#setAside = setAside;
    const { hostTier } = options.runtime;
    this.#copies = hostTier && new HostCopies(hostTier);
  }

  /** Bytes of memory that contexts hold. */
  get sizeBytes(): number {
    return sizeOf([...this.#entries.values(), ...this.#leaving]);
  }

  /**
   * Runs what takes memory of the runtime. Where that runs out, though the pool has room, idle
   * contexts give way one after another, unless all of them were too little, and it is tried again:
   * `work` must leave nothing half-done when it fails.
   */
  withRoom<T>(work: () => T): T {
    for (;;) {
      try {
        return work();
      } catch (error) {
        const idle = [...this.#entries.values()].filter(({ users }) => users === 0);
        const [first] = idle;
        if (first === undefined || !ranOut(error) || !mayHelp(error, sizeOf(idle))) throw error;
        this.#giveWay(first, Infinity);
      }
    }
  }

  /** Bytes that rows of each head take. */
  bytesOf(lengths: Uint32Array): number {
    return this.rowsBytes(lengths.reduce((sum, length) => sum + length, 0));
  }

  /** Bytes that so many rows take. */
  rowsBytes(rows: number): number {
    return rows * this.#options.runtime.rowBytes;
  }

  /** The entry of a context, unless it is of an earlier one that was deleted and made again. */
  current(record: ContextRecord): Entry | undefined {
    const entry = this.#entries.get(record.id);
    if (entry === undefined || entry.record.createdAtMs === record.createdAtMs) return entry;
    requireUnchanged(this.#options.store, record);
    this.#remove(entry);
    return undefined;
  }

  /**
   * Rows of each head at a keepRatio.
   * @throws ReadonceError `not_found`, `corrupt_record`, `conflict`
   */
  lengthsOf(record: ContextRecord, keepRatio: number): Uint32Array {
    const known = this.#entries.get(record.id)?.lengths.get(keepRatio);
    if (known !== undefined) return known;
    const { store } = this.#options;
    const lengths = contextLengths(store, record, keepRatio);
    requireUnchanged(store, record);
    return lengths;
  }

  /**
   * An entry for one more query, with memory for at least as many rows in each head as are needed,
   * and with room beside it. The rows are there once `isFilled` says so. None of a context that is
   * being filled with fewer rows may be asked for.
   * @throws ReadonceError `overloaded`, `out_of_memory`
   */
  hold(
    record: ContextRecord,
    needed: NeededRows,
  ): { readonly entry: Entry; readonly source: LoadedContext['source'] } {
    const { runtime, poolBytes } = this.#options;
    const { lengths, tailBytes } = needed;
    const restored = this.#restore(record, needed);
    if (restored !== undefined) return { entry: restored, source: 'host' };
    const loaded = this.#entries.get(record.id);
    if (loaded === undefined) {
      this.makeRoom(this.bytesOf(lengths) + tailBytes);
      return { entry: this.#load(record, lengths, undefined), source: 'disk' };
    }
    const held = loaded.cache.lengths;
    const isHeld = covers(loaded.cache, lengths);
    const source = isHeld && loaded.filling === undefined ? runtime.memory : 'disk';
    if (loaded.users > 0 && isHeld) {
      this.makeRoom(tailBytes, loaded);
      return { entry: loaded, source };
    }
    const all = lengths.map((length, head) => Math.max(length, held[head] as number));
    if (loaded.users > 0) {
      // Those who use it keep what they see, and both are in memory until they are done; who comes
      // now waits for the new one.
      this.makeRoom(this.bytesOf(all) + tailBytes, loaded);
      const entry = this.#load(record, all, loaded.cache);
      this.#remove(loaded);
      return { entry, source };
    }
    // Rows that are there are kept, unless there is no room for them.
    const room = poolBytes - this.#bytesInUse() - tailBytes;
    const rows = this.bytesOf(all) <= room ? all : lengths;
    this.makeRoom(this.bytesOf(rows) + tailBytes, loaded);
    if (rows.some((length, head) => length !== held[head])) this.#resize(loaded, rows);
    return { entry: loaded, source };
  }

  /**
   * Makes room for `bytes` beside what is in use. `kept` stays; idle, it is part of `bytes`.
   * @throws ReadonceError `overloaded`, `out_of_memory`
   */
  makeRoom(bytes: number, kept?: Entry): void {
    const { poolBytes } = this.#options;
    if (bytes > poolBytes) throw tooLarge(bytes, poolBytes);
    const heldBytes = this.#bytesInUse();
    const isFull = heldBytes + bytes > poolBytes;
    if (isFull && !this.#setAside.giveBack(heldBytes + bytes - poolBytes)) {
      throw noRoom({ bytes, poolBytes, heldBytes });
    }
    const idle = [...this.#entries.values()].filter((entry) => entry !== kept && entry.users === 0);
    let missingBytes = sizeOf(idle) + this.#bytesInUse() + bytes - poolBytes;
    for (const entry of idle) {
      if (missingBytes <= 0) return;
      missingBytes -= this.#giveWay(entry, missingBytes);
    }
  }

  /** Counts one more query that uses an entry, which makes it the most recently used. */
  use(entry: Entry): void {
    entry.users++;
    this.#entries.delete(entry.record.id);
    this.#entries.set(entry.record.id, entry);
  }

  /** Counts one query less. */
  leave(entry: Entry): void {
    entry.users--;
    // Without its last query, what is being filled is not filled to its end.
    const isKept = this.#entries.get(entry.record.id) === entry && entry.filling === undefined;
    if (entry.users === 0 && !isKept) this.#remove(entry);
  }

  /**
   * Reads some of the rows that an entry still lacks; whether all of them are there.
   * @throws ReadonceError as `RowFilling.advance`; the entry is gone then
   */
  isFilled(entry: Entry): boolean {
    try {
      if (entry.filling?.advance() === false) return false;
      entry.filling = undefined;
      return true;
    } catch (error) {
      entry.filling?.fail(error);
      this.#remove(entry);
      throw error;
    }
  }

  /**
   * The rows of a filled entry that queries of a keepRatio see.
   * @throws ReadonceError `out_of_memory`; the entry is gone then, since its rows are not all there
   */
  seen(entry: Entry, keepRatio: number, lengths: Uint32Array): SeenRows {
    try {
      return seenRows(entry, keepRatio, lengths);
    } catch (error) {
      this.#remove(entry);
      throw error;
    }
  }

  /** Forgets a context that was deleted; one in use goes when it is released. */
  drop(contextId: string): void {
    const entry = this.#entries.get(contextId);
    if (entry !== undefined) this.#remove(entry);
    this.#copies?.drop(contextId);
  }

  close(): void {
    this.#copies?.close();
    for (const entry of [...this.#entries.values(), ...this.#leaving]) {
      entry.filling?.close();
      entry.cache.close();
    }
    this.#entries.clear();
    this.#leaving.clear();
  }

  #load(record: ContextRecord, lengths: Uint32Array, known: ContextCache | undefined): Entry {
    const cache = this.#options.runtime.createContext(lengths);
    try {
      if (known !== undefined) cache.copyFrom(known);
      return this.#entry(record, cache, this.#fill(record, cache, known?.lengths));
    } catch (error) {
      cache.close();
      throw error;
    }
  }

  /** An entry with rows of a copy in host memory, where that is sooner than to read them. */
  #restore(record: ContextRecord, { lengths, tailBytes }: NeededRows): Entry | undefined {
    const loaded = this.#entries.get(record.id);
    const isThere = loaded !== undefined && covers(loaded.cache, lengths);
    if (isThere || (loaded?.users ?? 0) > 0) return undefined;
    const copy = this.#copies?.find(record, lengths);
    if (copy === undefined) return undefined;
    const bytes = this.bytesOf(copy.covering(lengths)) + tailBytes;
    if (bytes > this.#options.poolBytes - this.#bytesInUse()) return undefined;
    if (loaded !== undefined) this.#remove(loaded);
    try {
      const cache = this.#copies?.restore(copy, lengths, () => this.makeRoom(bytes));
      return cache && this.#entry(record, cache, undefined);
    } catch (error) {
      // What comes back of a copy may be more than is asked for, which is read.
      if (!ranOut(error)) throw error;
      return undefined;
    }
  }

  #entry(record: ContextRecord, cache: ContextCache, filling: RowFilling | undefined): Entry {
    return { record, cache, seen: new Map(), lengths: new Map(), users: 0, filling };
  }

  /** Begins to read rows behind those that a cache has. */
  #fill(record: ContextRecord, cache: ContextCache, from?: Uint32Array): RowFilling | undefined {
    const { store, clock = systemClock, pieceBytes = loadPieceBytes } = this.#options;
    return RowFilling.begin({ store, clock, pieceBytes }, { record, cache, from });
  }

  /** Gives an idle entry other memory, and begins to read the rows that it lacks. */
  #resize(entry: Entry, lengths: Uint32Array): void {
    assert(entry.users === 0, 'expected an idle context');
    for (const { view } of entry.seen.values()) view.close();
    entry.seen.clear();
    const from = entry.cache.lengths.slice();
    try {
      entry.cache.resize(lengths);
      entry.filling = this.#fill(entry.record, entry.cache, from);
    } catch (error) {
      // It has rows that were never filled.
      this.#remove(entry);
      throw error;
    }
  }

  #remove(entry: Entry): void {
    const { record, cache, filling, users } = entry;
    if (this.#entries.get(record.id) === entry) this.#entries.delete(record.id);
    this.#leaving.delete(entry);
    filling?.fail(changed(record.id));
    if (users > 0 && filling === undefined) this.#leaving.add(entry);
    else cache.close();
  }

  #bytesInUse(): number {
    const used = [...this.#entries.values()].filter(({ users }) => users > 0);
    return sizeOf([...used, ...this.#leaving]) + this.#setAside.bytes();
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
      const freedBytes = sizeBytes - this.bytesOf(lengths);
      if (freedBytes < missingBytes) continue;
      this.#resize(entry, lengths);
      return sizeBytes - cache.sizeBytes;
    }
    this.#remove(entry);
    return sizeBytes;
  }
}
