import type { KeptPairs } from '../compression/budget.ts';
import { resolveBudget, resolvePrecision } from '../compression/registry.ts';
import { assert } from '../core/assert.ts';
import { ReadonceError } from '../core/errors.ts';
import { headCount } from '../core/kv-layout.ts';
import type { ContextRecord } from '../core/context.ts';
import type { RaggedCache, Runtime } from '../runtime/runtime.ts';
import type { ContextStore } from '../../storage/context-store.ts';

/** A context in memory, held by one query at a time. */
export interface LoadedContext {
  readonly record: ContextRecord;
  readonly cache: RaggedCache;
  /** The ratio its rows were chosen at. */
  readonly keepRatio: number;
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
  /** Bytes of loaded contexts, tails included, over which idle ones are dropped. */
  readonly poolBytes: number;
}

interface Entry {
  readonly key: string;
  readonly context: LoadedContext;
  inUse: boolean;
  /** Set when the context was deleted while in use. */
  dropped: boolean;
}

/** Tails grow in steps, so that queries of about the same length share an allocation. */
const tailStep = 64;

/**
 * The engine's pool of loaded contexts: least recently used ones are dropped when the pool is full,
 * those in use never.
 */
export class LoadedContexts {
  readonly #options: LoadedContextsOptions;
  /** In order of last use. */
  readonly #entries = new Map<string, Entry>();

  constructor(options: LoadedContextsOptions) {
    this.#options = options;
  }

  /** Bytes of memory that loaded contexts hold. */
  get sizeBytes(): number {
    let bytes = 0;
    for (const { context } of this.#entries.values()) bytes += context.cache.sizeBytes;
    return bytes;
  }

  /** Whether the context is in memory at this ratio. */
  has(record: ContextRecord, keepRatio: number): boolean {
    return this.#entries.has(loadKey(record.id, keepRatio));
  }

  /**
   * Takes a context for one query, loading it if it is not in memory. Synchronous: runs in a turn
   * of the device. Callers queue for a context that is in use (`KeyedQueue`).
   * @throws ReadonceError `not_found`, `corrupt_record`, `out_of_memory`
   */
  acquire(request: LoadRequest): LoadedContext {
    const { record, keepRatio } = request;
    const key = loadKey(record.id, keepRatio);
    const tailCapacity = Math.ceil(request.tailTokens / tailStep) * tailStep;
    let entry = this.#entries.get(key);
    if (entry === undefined) {
      const lengths = contextLengths(this.#options.store, record, keepRatio);
      this.#makeRoom(this.#bytesOf(lengths, tailCapacity));
      const context = this.#load(request, { lengths, tailCapacity });
      entry = { key, context, inUse: false, dropped: false };
    }
    assert(!entry.inUse, 'a loaded context serves one query at a time');
    this.#reserveTail(entry, tailCapacity);
    entry.inUse = true;
    // Re-inserting makes it the most recently used.
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    return entry.context;
  }

  /** Gives a context back; its tail is forgotten. */
  release(context: LoadedContext): void {
    const key = loadKey(context.record.id, context.keepRatio);
    const entry = this.#entries.get(key);
    assert(entry?.context === context && entry.inUse, 'released once, by its holder');
    context.cache.truncateTail(0);
    entry.inUse = false;
    if (entry.dropped) this.#remove(entry);
  }

  /** Forgets a context that was deleted; one in use goes when it is released. */
  drop(contextId: string): void {
    for (const entry of this.#entries.values()) {
      if (entry.context.record.id !== contextId) continue;
      if (entry.inUse) entry.dropped = true;
      else this.#remove(entry);
    }
  }

  close(): void {
    for (const entry of this.#entries.values()) this.#remove(entry);
  }

  #remove(entry: Entry): void {
    this.#entries.delete(entry.key);
    entry.context.cache.close();
  }

  #reserveTail({ key, context }: Entry, tailCapacity: number): void {
    const { cache } = context;
    if (tailCapacity <= cache.tailCapacity) return;
    const bytes = this.#bytesOf(cache.lengths, tailCapacity);
    this.#makeRoom(bytes, key);
    cache.reserveTail(tailCapacity);
  }

  #bytesOf(lengths: Uint32Array, tailCapacity: number): number {
    const rows = lengths.reduce((sum, length) => sum + length + tailCapacity, 0);
    return rows * 2 * this.#options.runtime.layout.headDim * Float32Array.BYTES_PER_ELEMENT;
  }

  /** Makes room for a context of `bytes`; what `replaced` holds does not count and stays. */
  #makeRoom(bytes: number, replaced?: string): void {
    const { poolBytes } = this.#options;
    const facts = { bytes, poolBytes };
    if (bytes > poolBytes) {
      throw new ReadonceError(
        'out_of_memory',
        `Expected a context of at most ${poolBytes} bytes in memory but it needs ${bytes}: raise ` +
          'READONCE_POOL_BYTES, or ask with a smaller keepRatio or maxTokens',
        { details: facts },
      );
    }
    const others = [...this.#entries.values()].filter(({ key }) => key !== replaced);
    let heldBytes = others.reduce((sum, { context }) => sum + context.cache.sizeBytes, 0);
    for (const entry of others) {
      if (heldBytes + bytes <= poolBytes) return;
      if (entry.inUse) continue;
      heldBytes -= entry.context.cache.sizeBytes;
      this.#remove(entry);
    }
    if (heldBytes + bytes <= poolBytes) return;
    throw new ReadonceError(
      'overloaded',
      `Expected room for ${bytes} bytes in memory but running queries hold ${heldBytes} of ` +
        `${poolBytes}: try again shortly, or raise READONCE_POOL_BYTES`,
      { details: { ...facts, heldBytes }, retryAfterSeconds: 1 },
    );
  }

  #load(
    { record, keepRatio }: LoadRequest,
    shape: { readonly lengths: Uint32Array; readonly tailCapacity: number },
  ): LoadedContext {
    const { runtime, store } = this.#options;
    const precision = resolvePrecision(record.compression.precision);
    const { headDim } = record.layout;
    const { lengths, tailCapacity } = shape;
    const cache = runtime.createRagged(lengths, tailCapacity);
    try {
      for (const [head, rows] of lengths.entries()) {
        const [keys, values] = [cache.keys(head), cache.values(head)];
        let row = 0;
        for (const piece of store.readPairs(record.id, head, rows)) {
          const [start, end] = [row * headDim, (row + piece.rows) * headDim];
          precision.decode(piece.keys, keys.subarray(start, end), headDim);
          precision.decode(piece.values, values.subarray(start, end), headDim);
          row += piece.rows;
        }
        assert(row === rows, `expected ${rows} rows of head ${head} but read ${row}`);
      }
      return { record, cache, keepRatio };
    } catch (error) {
      cache.close();
      throw error;
    }
  }
}

/** What a context is loaded under: at another ratio it is another one. */
export function loadKey(contextId: string, keepRatio: number): string {
  return `${contextId}@${keepRatio}`;
}

/** Rows of each head at a ratio: the prefix, and what the budget keeps of the document. */
export function contextLengths(
  store: ContextStore,
  record: ContextRecord,
  keepRatio: number,
): Uint32Array {
  if (keepRatio === record.compression.keepRatio) return Uint32Array.from(record.pairCounts);
  const counts = resolveBudget(record.compression.budget).prefixCounts({
    layout: record.layout,
    documentTokens: record.document.tokens,
    keepRatio,
    stored: storedPairs(store, record),
  });
  return counts.map((count) => record.prefixTokens + count);
}

function storedPairs(store: ContextStore, record: ContextRecord): KeptPairs {
  const heads = headCount(record.layout);
  const rankings = Array.from({ length: heads }, (_, head) => store.readRanking(record.id, head));
  const counts = Uint32Array.from(rankings, ({ positions }) => positions.length);
  const total = counts.reduce((sum, count) => sum + count, 0);
  const positions = new Uint32Array(total);
  const scores = new Float32Array(total);
  let start = 0;
  for (const ranking of rankings) {
    positions.set(ranking.positions, start);
    scores.set(ranking.scores, start);
    start += ranking.positions.length;
  }
  return { counts, positions, scores };
}
