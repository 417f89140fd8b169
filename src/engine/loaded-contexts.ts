import { assert } from '../core/assert.ts';
import type { ContextRecord } from '../core/context.ts';
import { ReadonceError } from '../core/errors.ts';
import type { RaggedCache, RaggedShape, Runtime } from '../runtime/runtime.ts';
import type { ContextStore } from '../../storage/context-store.ts';
import { contextLengths, decodeRows, requireUnchanged } from './context-rows.ts';

/** A context in memory, held by one query at a time. */
export interface LoadedContext {
  readonly record: ContextRecord;
  /** Attends to the rows of the keepRatio that was asked for. */
  readonly cache: RaggedCache;
  /** `host` if all these rows were in memory, `disk` if any was read. */
  readonly source: 'host' | 'disk';
}

/** What a query needs of its context. */
export interface LoadRequest {
  readonly record: ContextRecord;
  /** At most the record's. */
  readonly keepRatio: number;
  /** Rows the query and its answer need behind the context. */
  readonly tailTokens: number;
}

/** Where contexts are read from and held, and how much they may take. */
export interface LoadedContextsOptions {
  readonly runtime: Runtime;
  readonly store: ContextStore;
  /** Bytes of loaded contexts, tails included, over which idle ones are shortened or dropped. */
  readonly poolBytes: number;
}

interface Entry {
  readonly record: ContextRecord;
  readonly cache: RaggedCache;
  /** Rows of each head by keepRatio, of those that were asked for. */
  readonly lengths: Map<number, Uint32Array>;
  holder: LoadedContext | undefined;
  /** Set when the context was deleted while in use. */
  dropped: boolean;
}

/** Tails grow in steps, so that queries of about the same length share an allocation. */
const tailStep = 64;

/** Ratios whose lengths a context remembers: more than its users will ask for, usually. */
const rememberedRatios = 16;

/**
 * What an idle context may be left with when room is needed: these fractions of the document's rows
 * that each head holds, the most important ones, and no tail. With less than the last, little would
 * be saved when it is loaded again: it is dropped.
 */
const shortenedTo = [1, 1 / 2, 1 / 4, 1 / 8];

/**
 * The engine's pool of loaded contexts, each once, with as many rows as were asked for. A query at
 * a smaller keepRatio than is loaded sees fewer of them; one at a larger keepRatio has the missing
 * rows read. When the pool is full, contexts give way from the least recently used one on: each is
 * shortened by as much as is needed, or dropped. Those in use never are.
 */
export class LoadedContexts {
  readonly #options: LoadedContextsOptions;
  /** By context id, in order of last use. */
  readonly #entries = new Map<string, Entry>();

  constructor(options: LoadedContextsOptions) {
    this.#options = options;
  }

  /** Bytes of memory that loaded contexts hold. */
  get sizeBytes(): number {
    return sizeOf([...this.#entries.values()]);
  }

  /**
   * Takes a context for one query, reading what of it is not in memory. Synchronous: runs in a turn
   * of the device. Callers queue for a context that is in use (`KeyedQueue`).
   * @throws ReadonceError `not_found`, `conflict` (deleted or replaced meanwhile),
   * `corrupt_record`, `out_of_memory`, `overloaded`
   */
  acquire({ record, keepRatio, tailTokens }: LoadRequest): LoadedContext {
    const loaded = this.#current(record);
    assert(loaded?.holder === undefined, 'a loaded context serves one query at a time');
    const lengths = loaded?.lengths.get(keepRatio) ?? this.#readLengths(record, keepRatio);
    const tailCapacity = Math.ceil(tailTokens / tailStep) * tailStep;
    const shape = this.#shapeFor({ lengths, tailCapacity }, loaded);
    if (shape !== undefined) this.#makeRoom(this.#bytesOf(shape), loaded);
    const entry = loaded ?? this.#add(record);
    const source = shape === undefined ? 'host' : this.#hold(entry, shape);
    entry.cache.attendTo(lengths);
    remember(entry.lengths, keepRatio, lengths);
    entry.holder = { record, cache: entry.cache, source };
    // Re-inserting makes it the most recently used.
    this.#entries.delete(record.id);
    this.#entries.set(record.id, entry);
    return entry.holder;
  }

  /** Gives a context back; its tail is forgotten. */
  release(context: LoadedContext): void {
    const entry = this.#entries.get(context.record.id);
    assert(entry?.holder === context, 'released once, by its holder');
    context.cache.truncateTail(0);
    entry.holder = undefined;
    if (entry.dropped) this.#remove(entry);
  }

  /** Forgets a context that was deleted; one in use goes when it is released. */
  drop(contextId: string): void {
    const entry = this.#entries.get(contextId);
    if (entry === undefined) return;
    if (entry.holder === undefined) this.#remove(entry);
    else entry.dropped = true;
  }

  close(): void {
    for (const entry of this.#entries.values()) this.#remove(entry);
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

  /**
   * What a context must hold to serve a request, undefined if it does already. Rows and tail that
   * are there are kept, unless there is no room for them.
   */
  #shapeFor(needed: RaggedShape, loaded: Entry | undefined): RaggedShape | undefined {
    if (loaded === undefined) return needed;
    const { heldLengths, tailCapacity } = loaded.cache;
    const lengths = heldLengths.map((held, head) => Math.max(held, needed.lengths[head] as number));
    const all = { lengths, tailCapacity: Math.max(tailCapacity, needed.tailCapacity) };
    const allBytes = this.#bytesOf(all);
    if (allBytes === this.#bytesOf({ lengths: heldLengths, tailCapacity })) return undefined;
    return allBytes <= this.#options.poolBytes - this.#bytesInUse() ? all : needed;
  }

  #bytesInUse(): number {
    return sizeOf([...this.#entries.values()].filter(({ holder }) => holder !== undefined));
  }

  #bytesOf({ lengths, tailCapacity }: RaggedShape): number {
    const rows = lengths.reduce((sum, length) => sum + length + tailCapacity, 0);
    return rows * 2 * this.#options.runtime.layout.headDim * Float32Array.BYTES_PER_ELEMENT;
  }

  #add(record: ContextRecord): Entry {
    const nothing = new Uint32Array(record.pairCounts.length);
    const cache = this.#options.runtime.createRagged(nothing, 0);
    const entry = { record, cache, lengths: new Map(), holder: undefined, dropped: false };
    this.#entries.set(record.id, entry);
    return entry;
  }

  #remove(entry: Entry): void {
    this.#entries.delete(entry.record.id);
    entry.cache.close();
  }

  /** Gives a context its memory, and reads the rows that it lacks. */
  #hold(entry: Entry, shape: RaggedShape): LoadedContext['source'] {
    const { store } = this.#options;
    const { cache, record } = entry;
    const held = cache.heldLengths.slice();
    const headDim = record.layout.headDim;
    let source: LoadedContext['source'] = 'host';
    try {
      cache.resize(shape);
      for (const [head, to] of shape.lengths.entries()) {
        const from = held[head] as number;
        if (from >= to) continue;
        source = 'disk';
        decodeRows(
          store,
          record,
          { head, from, to },
          {
            keys: cache.keys(head).subarray(from * headDim),
            values: cache.values(head).subarray(from * headDim),
          },
        );
      }
      if (source === 'disk') requireUnchanged(store, record);
      return source;
    } catch (error) {
      // It has rows that were never filled.
      this.#remove(entry);
      throw error;
    }
  }

  /** Makes room for a context of `bytes`; what it holds already does not count and stays. */
  #makeRoom(bytes: number, loaded: Entry | undefined): void {
    const { poolBytes } = this.#options;
    const details = { bytes, poolBytes };
    if (bytes > poolBytes) {
      throw new ReadonceError(
        'out_of_memory',
        `Expected a context of at most ${poolBytes} bytes in memory but it needs ${bytes}: raise ` +
          'READONCE_POOL_BYTES, or ask with a smaller keepRatio or maxTokens',
        { details },
      );
    }
    const heldBytes = this.#bytesInUse();
    if (heldBytes + bytes > poolBytes) {
      throw new ReadonceError(
        'overloaded',
        `Expected room for ${bytes} bytes in memory but running queries hold ${heldBytes} of ` +
          `${poolBytes}: try again shortly, or raise READONCE_POOL_BYTES`,
        { details: { ...details, heldBytes }, retryAfterSeconds: 1 },
      );
    }
    const others = [...this.#entries.values()].filter((entry) => entry !== loaded);
    let missingBytes = sizeOf(others) + bytes - poolBytes;
    for (const entry of others) {
      if (missingBytes <= 0) return;
      if (entry.holder === undefined) missingBytes -= this.#giveWay(entry, missingBytes);
    }
  }

  /** Shortens an idle context until it has given back `missingBytes`, or drops it. */
  #giveWay(entry: Entry, missingBytes: number): number {
    const { cache, record } = entry;
    const sizeBytes = cache.sizeBytes;
    for (const fraction of shortenedTo) {
      const shape = {
        lengths: cache.heldLengths.map(
          (held) => record.prefixTokens + Math.floor(fraction * (held - record.prefixTokens)),
        ),
        tailCapacity: 0,
      };
      const freedBytes = sizeBytes - this.#bytesOf(shape);
      if (freedBytes < missingBytes) continue;
      this.#hold(entry, shape);
      return freedBytes;
    }
    this.#remove(entry);
    return sizeBytes;
  }
}

function sizeOf(entries: readonly Entry[]): number {
  return entries.reduce((sum, { cache }) => sum + cache.sizeBytes, 0);
}

/** Remembers lengths, and forgets the oldest if they are too many. */
function remember(all: Entry['lengths'], keepRatio: number, lengths: Uint32Array): void {
  all.delete(keepRatio);
  all.set(keepRatio, lengths);
  const [oldest] = all.keys();
  if (all.size > rememberedRatios && oldest !== undefined) all.delete(oldest);
}
