import type { ContextRecord } from '../../src/core/context.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import type {
  LoadedContext,
  LoadedContextsOptions,
  LoadRequest,
} from '../../src/engine/loaded-context.ts';
import { LoadedContexts } from '../../src/engine/loaded-contexts.ts';
import type { ContextCache, Runtime } from '../../src/runtime/runtime.ts';
import type { ContextStore, HeadRange, RowReading } from '../../storage/context-store.ts';
import { TestEngine } from './engine.ts';
import { forwardAlone } from './ragged.ts';
import { randomCheckpoint, type RandomCheckpoint } from './random-checkpoint.ts';

/** Bytes of a key and a value of 16 elements. */
export const rowBytes = 2 * 16 * Float32Array.BYTES_PER_ELEMENT;
/** Bytes of a token's pairs in all heads: those of the tail of the shortest request. */
export const tokenBytes = 4 * rowBytes;

/** What `LoadedContexts` is tried with: stored contexts, pools over them, and what they answer. */
export class LoadedBench {
  readonly engine: TestEngine;
  readonly #random: RandomCheckpoint;

  private constructor(engine: TestEngine, random: RandomCheckpoint) {
    this.engine = engine;
    this.#random = random;
  }

  static async open(): Promise<LoadedBench> {
    const random = await randomCheckpoint();
    return new LoadedBench(await TestEngine.open({ checkpoint: random.checkpoint }), random);
  }

  /** Stores a document of one word; all of them are of the same size. */
  async put(word: string): Promise<ContextRecord> {
    const compression = { method: 'random', budget: 'uniform', keepRatio: 0.5 };
    const document = Array.from({ length: 60 }, () => word).join(' ');
    return (await this.engine.ingest(document, { request: { compression } })).record;
  }

  pool(poolBytes: number, store: ContextStore = this.engine.store): LoadedContexts {
    return new LoadedContexts({ runtime: this.engine.runtime, store, poolBytes });
  }

  /** A pool that reads as little in a piece of work as the store can. */
  poolInPieces(options: Partial<LoadedContextsOptions> = {}): LoadedContexts {
    const { runtime, store } = this.engine;
    return new LoadedContexts({ runtime, store, poolBytes: 2 ** 30, pieceBytes: 1, ...options });
  }

  /** A pool that nothing fills, whose caches can be looked into, in the order they were made. */
  openPool(store: ContextStore = this.engine.store): {
    readonly loaded: LoadedContexts;
    readonly caches: readonly ContextCache[];
  } {
    const caches: ContextCache[] = [];
    const runtime = new Proxy<Runtime>(this.engine.runtime, {
      get(target, name) {
        if (name !== 'createContext') return Reflect.get(target, name) as unknown;
        return (lengths: Uint32Array) => {
          const cache = target.createContext(lengths);
          caches.push(cache);
          return cache;
        };
      },
    });
    return { loaded: new LoadedContexts({ runtime, store, poolBytes: 2 ** 30 }), caches };
  }

  /** The engine's store, and the rows that are read from it; may be made to fail. */
  watchedStore(): { rows: number; failing: boolean; readonly store: ContextStore } {
    const watched = { rows: 0, failing: false };
    const store = new Proxy<ContextStore>(this.engine.store, {
      get(target, name) {
        if (name !== 'readRows') return Reflect.get(target, name).bind(target);
        return (id: string, ranges: readonly HeadRange[]): RowReading => {
          const reading = target.readRows(id, ranges);
          const take: RowReading['take'] = (onRows) => {
            if (watched.failing) throw new ReadonceError('corrupt_record', 'Checksum differs.');
            return reading.take((rows) => {
              watched.rows += rows.rows;
              return onRows(rows);
            });
          };
          return { take, ready: () => reading.ready(), close: () => reading.close() };
        };
      },
    });
    return Object.assign(watched, { store });
  }

  /** What a query on a context gets: shows its rows, and which of them it sees. */
  readonly logitsOn = ({ view }: LoadedContext): Float32Array => {
    const { runtime } = this.engine;
    const parts = { context: view, tail: runtime.createTail() };
    return forwardAlone(runtime, parts, { ids: Int32Array.of(5, 6), startPosition: 100 });
  };

  /** The same from memory that holds nothing else. */
  expectedLogits(record: ContextRecord, keepRatio = record.compression.keepRatio): Float32Array {
    return this.logitsOn(acquire(this.pool(2 ** 30), request(record, { keepRatio })));
  }

  async close(): Promise<void> {
    await this.engine.close();
    this.#random.remove();
  }
}

/** All that is stored, and the shortest tail, unless said otherwise. */
export function request(
  record: ContextRecord,
  options: Partial<Omit<LoadRequest, 'record'>> = {},
): LoadRequest {
  return { record, keepRatio: record.compression.keepRatio, tailTokens: 1, ...options };
}

/** Loads a context at one go, as no engine does: nothing else runs between the pieces. */
export function acquire(loaded: LoadedContexts, asked: LoadRequest): LoadedContext {
  const claim = loaded.claim(asked);
  for (;;) {
    const context = claim.advance();
    if (context !== undefined) return context;
  }
}

/** Loads contexts one after another, gives each back, and says where its rows were. */
export function use(
  loaded: LoadedContexts,
  ...records: readonly ContextRecord[]
): readonly string[] {
  return records.map((record) => {
    const context = acquire(loaded, request(record));
    loaded.release(context);
    return context.source;
  });
}

/** Rows of all heads together. */
export function total(lengths: ArrayLike<number>): number {
  return Array.from(lengths).reduce((sum, length) => sum + length, 0);
}
