import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { resolvePrecision } from '../../src/compression/registry.ts';
import { AssertionError, defined } from '../../src/core/assert.ts';
import type { ContextRecord } from '../../src/core/context.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import { contextLengths } from '../../src/engine/context-rows.ts';
import { LoadedContexts, type LoadedContext } from '../../src/engine/loaded-contexts.ts';
import type { ContextCache, Runtime } from '../../src/runtime/runtime.ts';
import type { ContextStore, HeadPairs } from '../../storage/context-store.ts';
import { TestEngine } from '../support/engine.ts';
import { forwardAlone } from '../support/ragged.ts';
import { randomCheckpoint, type RandomCheckpoint } from '../support/random-checkpoint.ts';

let random: RandomCheckpoint;
let engine: TestEngine;
/** Contexts of the same size. */
let a: ContextRecord;
let b: ContextRecord;
let c: ContextRecord;
/** Bytes of one of them. */
let contextBytes: number;
/** Bytes of a key and a value of 16 elements. */
const rowBytes = 2 * 16 * Float32Array.BYTES_PER_ELEMENT;
/** Bytes of a token's pairs in all heads: those of the tail of the shortest request. */
const tokenBytes = 4 * rowBytes;

beforeAll(async () => {
  random = await randomCheckpoint();
  engine = await TestEngine.open({ checkpoint: random.checkpoint });
  const put = async (document: string): Promise<ContextRecord> => {
    const compression = { method: 'random', budget: 'uniform', keepRatio: 0.5 };
    return (await engine.ingest(document, { request: { compression } })).record;
  };
  [a, b, c] = [await put(repeat('1')), await put(repeat('2')), await put(repeat('3'))];
  contextBytes = total(a.pairCounts) * rowBytes;
});
afterAll(async () => {
  await engine.close();
  random.remove();
});

function repeat(word: string): string {
  return Array.from({ length: 60 }, () => word).join(' ');
}

function pool(poolBytes: number, store: ContextStore = engine.store): LoadedContexts {
  return new LoadedContexts({ runtime: engine.runtime, store, poolBytes });
}

/** A pool without bounds whose caches can be looked into, in the order they were made. */
function openPool(store: ContextStore = engine.store) {
  const caches: ContextCache[] = [];
  const runtime = new Proxy<Runtime>(engine.runtime, {
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

function request(record: ContextRecord, options: { keepRatio?: number; tailTokens?: number } = {}) {
  const { keepRatio = record.compression.keepRatio, tailTokens = 1 } = options;
  return { record, keepRatio, tailTokens };
}

/** Loads contexts one after another, gives each back, and says where its rows were. */
function use(loaded: LoadedContexts, ...records: readonly ContextRecord[]): readonly string[] {
  return records.map((record) => {
    const context = loaded.acquire(request(record));
    loaded.release(context);
    return context.source;
  });
}

/** The engine's store, and the rows that are read from it; may be made to fail. */
function watchedStore() {
  const watched = { rows: 0, failing: false };
  const store = new Proxy<ContextStore>(engine.store, {
    get(target, name) {
      if (name !== 'readPairs') return Reflect.get(target, name).bind(target);
      return (...args: Parameters<ContextStore['readPairs']>) => {
        if (watched.failing) throw new ReadonceError('corrupt_record', 'Checksum differs.');
        return counted(target.readPairs(...args));
      };
    },
  });
  function* counted(pieces: Iterable<HeadPairs>): Generator<HeadPairs> {
    for (const piece of pieces) {
      watched.rows += piece.rows;
      yield piece;
    }
  }
  return Object.assign(watched, { store });
}

function total(lengths: ArrayLike<number>): number {
  return Array.from(lengths).reduce((sum, length) => sum + length, 0);
}

/** What a query on a context gets: shows its rows, and which of them it sees. */
function logitsOn({ view }: LoadedContext): Float32Array {
  const parts = { context: view, tail: engine.runtime.createTail() };
  return forwardAlone(engine.runtime, parts, { ids: Int32Array.of(5, 6), startPosition: 100 });
}

/** The same from memory that holds nothing else. */
function expectedLogits(record: ContextRecord, keepRatio = record.compression.keepRatio) {
  return logitsOn(pool(2 ** 30).acquire(request(record, { keepRatio })));
}

describe('a loaded context', () => {
  it('has the stored rows, decoded, in stored order', () => {
    const { loaded, caches } = openPool();
    const { view } = loaded.acquire(request(a));
    expect([...view.lengths]).toEqual(a.pairCounts);
    const precision = resolvePrecision('f16');
    const { headDim } = a.layout;
    for (const [head, count] of a.pairCounts.entries()) {
      const keys = defined(caches[0], 'a cache').keys(head);
      let row = 0;
      for (const piece of engine.store.readPairs(a.id, head)) {
        const expected = new Float32Array(piece.rows * headDim);
        precision.decode(piece.keys, expected, headDim);
        const end = row + piece.rows;
        expect(keys.subarray(row * headDim, end * headDim)).toEqual(expected);
        row = end;
      }
      expect(row).toBe(count);
    }
  });

  it('is read once, and has memory set aside for the tail of each query', () => {
    const { loaded, caches } = openPool();
    const first = loaded.acquire(request(a, { tailTokens: 10 }));
    expect(loaded.sizeBytes).toBe(contextBytes + 10 * tokenBytes);
    loaded.release(first);
    expect(loaded.sizeBytes).toBe(contextBytes);
    const again = loaded.acquire(request(a, { tailTokens: 500 }));
    expect([first.source, again.source]).toEqual(['disk', 'host']);
    expect(caches).toHaveLength(1);
    expect(loaded.sizeBytes).toBe(contextBytes + 500 * tokenBytes);
  });

  it('serves several queries at once, which see it through one view', () => {
    const { loaded, caches } = openPool();
    const [first, second] = [loaded.acquire(request(a)), loaded.acquire(request(a))];
    expect(caches).toHaveLength(1);
    expect(second.view).toBe(first.view);
    expect([first.source, second.source]).toEqual(['disk', 'host']);
    expect(loaded.sizeBytes).toBe(contextBytes + 2 * tokenBytes);
    loaded.release(first);
    expect(logitsOn(second)).toEqual(expectedLogits(a));
  });

  it('is given back once by each query', () => {
    const loaded = pool(2 ** 30);
    const context = loaded.acquire(request(a));
    loaded.release(context);
    expect(() => loaded.release(context)).toThrow(AssertionError);
  });

  it('is given back by a session, which keeps the memory of its tail', () => {
    const loaded = pool(contextBytes + 10 * tokenBytes);
    const context = loaded.acquire(request(a, { tailTokens: 10 }));
    loaded.park(context, 3 * tokenBytes);
    expect(loaded.sizeBytes).toBe(contextBytes + 3 * tokenBytes);
    // The context is idle: it makes room.
    loaded.release(loaded.acquire(request(b, { tailTokens: 7 })));
    expect(loaded.acquire(request(a, { keepRatio: 0.01 })).source).toBe('disk');
    loaded.release(context);
    expect(() => loaded.release(context)).toThrow(AssertionError);
  });
});

describe('a loaded context at another keepRatio', () => {
  it('sees fewer rows of those it has, and all of them again', () => {
    const watched = watchedStore();
    const { loaded, caches } = openPool(watched.store);
    loaded.release(loaded.acquire(request(a)));
    const rows = watched.rows;
    const short = loaded.acquire(request(a, { keepRatio: 0.2 }));
    expect(short.source).toBe('host');
    expect(short.view.lengths).toEqual(contextLengths(engine.store, a, 0.2));
    expect(logitsOn(short)).toEqual(expectedLogits(a, 0.2));
    loaded.release(short);
    const again = loaded.acquire(request(a));
    expect(again.source).toBe('host');
    expect(logitsOn(again)).toEqual(expectedLogits(a));
    expect(watched.rows).toBe(rows);
    expect(caches).toHaveLength(1);
  });

  it('serves several ratios at once', () => {
    const { loaded, caches } = openPool();
    const contexts = [0.5, 0.2, 0.1, 0.2].map((keepRatio) =>
      loaded.acquire(request(a, { keepRatio })),
    );
    expect(caches).toHaveLength(1);
    expect(contexts.map(({ source }) => source)).toEqual(['disk', 'host', 'host', 'host']);
    expect(contexts.map(logitsOn)).toEqual(
      [0.5, 0.2, 0.1, 0.2].map((keepRatio) => expectedLogits(a, keepRatio)),
    );
    expect(loaded.sizeBytes).toBe(contextBytes + 4 * tokenBytes);
  });

  it('has only the missing rows read when it is asked for more', () => {
    const watched = watchedStore();
    const { loaded, caches } = openPool(watched.store);
    const short = loaded.acquire(request(a, { keepRatio: 0.2 }));
    expect(watched.rows).toBe(total(short.view.lengths));
    loaded.release(short);
    const whole = loaded.acquire(request(a));
    expect(whole.source).toBe('disk');
    expect(watched.rows).toBe(total(a.pairCounts));
    expect(logitsOn(whole)).toEqual(expectedLogits(a));
    expect(caches).toHaveLength(1);
  });

  it('grows while it is in use: who uses it keeps what it sees', () => {
    const watched = watchedStore();
    const { loaded, caches } = openPool(watched.store);
    const short = loaded.acquire(request(a, { keepRatio: 0.2 }));
    const shortBytes = total(short.view.lengths) * rowBytes;
    const before = logitsOn(short);
    const whole = loaded.acquire(request(a));
    expect(whole.source).toBe('disk');
    expect(watched.rows).toBe(total(a.pairCounts));
    expect(logitsOn(whole)).toEqual(expectedLogits(a));
    expect(logitsOn(short)).toEqual(before);
    // Both are in memory until the first is given back.
    expect(loaded.sizeBytes).toBe(shortBytes + contextBytes + 2 * tokenBytes);
    const next = loaded.acquire(request(a, { keepRatio: 0.2 }));
    expect(next.source).toBe('host');
    expect(logitsOn(next)).toEqual(before);
    loaded.release(short);
    expect(caches.map(({ sizeBytes }) => sizeBytes)).toEqual([0, contextBytes]);
    loaded.release(whole);
    loaded.release(next);
    expect(loaded.sizeBytes).toBe(contextBytes);
  });

  it('waits with growing while it is in use until there is room for both', () => {
    const loaded = pool(contextBytes + 2 * tokenBytes);
    const short = loaded.acquire(request(a, { keepRatio: 0.2 }));
    expect(() => loaded.acquire(request(a))).toThrow(
      expect.objectContaining({ code: 'overloaded' }),
    );
    expect(logitsOn(short)).toEqual(expectedLogits(a, 0.2));
    loaded.release(short);
    expect(logitsOn(loaded.acquire(request(a)))).toEqual(expectedLogits(a));
  });

  it('gives up rows that are not asked for, if there is no room for them and the tail', () => {
    const loaded = pool(contextBytes + 4 * tokenBytes);
    use(loaded, a);
    expect(() => loaded.acquire(request(a, { tailTokens: 5 }))).toThrow(
      expect.objectContaining({ code: 'out_of_memory' }),
    );
    expect(use(loaded, a)).toEqual(['host']);
    const short = loaded.acquire(request(a, { keepRatio: 0.01, tailTokens: 5 }));
    expect(short.source).toBe('host');
    const lengths = contextLengths(engine.store, a, 0.01);
    expect(short.view.lengths).toEqual(lengths);
    expect(loaded.sizeBytes).toBe(total(lengths) * rowBytes + 5 * tokenBytes);
  });

  it('is dropped if the missing rows cannot be read', () => {
    const watched = watchedStore();
    const loaded = pool(2 ** 30, watched.store);
    loaded.release(loaded.acquire(request(a, { keepRatio: 0.2 })));
    watched.failing = true;
    expect(() => loaded.acquire(request(a))).toThrow(
      expect.objectContaining({ code: 'corrupt_record' }),
    );
    expect(loaded.sizeBytes).toBe(0);
  });

  it('stays as it is for those who use it if the missing rows cannot be read', () => {
    const watched = watchedStore();
    const { loaded, caches } = openPool(watched.store);
    const short = loaded.acquire(request(a, { keepRatio: 0.2 }));
    watched.failing = true;
    expect(() => loaded.acquire(request(a))).toThrow(
      expect.objectContaining({ code: 'corrupt_record' }),
    );
    expect(caches[1]?.sizeBytes).toBe(0);
    expect(logitsOn(short)).toEqual(expectedLogits(a, 0.2));
    expect(loaded.sizeBytes).toBe(total(short.view.lengths) * rowBytes + tokenBytes);
  });
});

describe('a context that was deleted and ingested again', () => {
  const compression = { method: 'random', budget: 'uniform', keepRatio: 0.5 };
  const replaced = async (old: ContextRecord, document: string): Promise<ContextRecord> => {
    await engine.store.delete(old.id);
    const { record } = await engine.ingest(document, { request: { compression } });
    expect(record.createdAtMs).toBeGreaterThan(old.createdAtMs);
    return record;
  };

  it('is loaded anew, and refused to whoever still knows the old one', async () => {
    const old = (await engine.ingest(repeat('4'), { request: { compression } })).record;
    const loaded = pool(2 ** 30);
    use(loaded, old);
    const record = await replaced(old, repeat('4'));
    expect(use(loaded, record)).toEqual(['disk']);
    expect(() => loaded.acquire(request(old))).toThrow(
      expect.objectContaining({ code: 'conflict' }),
    );
    expect(loaded.sizeBytes).toBe(0);
  });

  it('stays beside the new one for those who use it', async () => {
    const old = (await engine.ingest(repeat('5'), { request: { compression } })).record;
    const { loaded, caches } = openPool();
    const held = loaded.acquire(request(old));
    const record = await replaced(old, repeat('5'));
    expect(use(loaded, record)).toEqual(['disk']);
    expect(logitsOn(held)).toEqual(expectedLogits(record));
    loaded.release(held);
    expect(caches.map(({ sizeBytes }) => sizeBytes)).toEqual([0, contextBytes]);
  });
});

describe('the pool', () => {
  it('drops the least recently used context when it is full', () => {
    const loaded = pool(2 * contextBytes + tokenBytes);
    use(loaded, a, b, a, c);
    expect(loaded.sizeBytes).toBe(2 * contextBytes);
    expect(use(loaded, a, c, b)).toEqual(['host', 'host', 'disk']);
  });

  it.each([1 / 2, 1 / 4, 1 / 8])('shortens an idle context to %d of its rows', (fraction) => {
    const left = a.pairCounts.map(
      (count) => a.prefixTokens + Math.floor((count - a.prefixTokens) * fraction),
    );
    const leftBytes = total(left) * rowBytes;
    const watched = watchedStore();
    const loaded = pool(contextBytes + leftBytes + tokenBytes, watched.store);
    use(loaded, a, b);
    expect(loaded.sizeBytes).toBe(contextBytes + leftBytes);
    watched.rows = 0;
    const again = loaded.acquire(request(a));
    expect(again.source).toBe('disk');
    expect(watched.rows).toBe(total(a.pairCounts) - total(left));
    expect(logitsOn(again)).toEqual(expectedLogits(a));
  });

  it('drops an idle context that would be left with less', () => {
    const loaded = pool(contextBytes + 4 * a.prefixTokens * rowBytes + tokenBytes);
    use(loaded, a, b);
    expect(loaded.sizeBytes).toBe(contextBytes);
  });

  it('leaves contexts alone that were used later, if earlier ones make room', () => {
    const left = total(a.pairCounts) / 2;
    const loaded = pool(2 * contextBytes + left * rowBytes + tokenBytes);
    use(loaded, a, b, c);
    expect(use(loaded, c, b)).toEqual(['host', 'host']);
    expect(loaded.sizeBytes).toBeGreaterThan(2 * contextBytes);
  });

  it('refuses what is larger than all of it, and drops nothing for that', () => {
    const loaded = pool(contextBytes + tokenBytes);
    use(loaded, a);
    expect(() => loaded.acquire(request(b, { tailTokens: 2 }))).toThrow(
      expect.objectContaining({
        code: 'out_of_memory',
        message: expect.stringContaining(`at most ${contextBytes + tokenBytes} bytes`) as string,
      }),
    );
    expect(use(loaded, a)).toEqual(['host']);
  });

  it('never drops what is in use: who finds no room shall come again', () => {
    const loaded = pool(2 * contextBytes + 3 * tokenBytes);
    const held = [loaded.acquire(request(a)), loaded.acquire(request(b))];
    expect(() => loaded.acquire(request(c))).toThrow(
      expect.objectContaining({ code: 'overloaded', retryAfterSeconds: 1 }),
    );
    expect(held.map(logitsOn)).toEqual([expectedLogits(a), expectedLogits(b)]);
    for (const context of held) loaded.release(context);
    use(loaded, c);
    expect(use(loaded, c)).toEqual(['host']);
  });

  it('counts the tails of those who use a context: another waits until there is room', async () => {
    const loaded = pool(contextBytes + 3 * tokenBytes);
    const { signal } = new AbortController();
    const held = loaded.acquire(request(a, { tailTokens: 2 }));
    const again = request(a, { tailTokens: 2 });
    expect(() => loaded.acquire(again)).toThrow(expect.objectContaining({ code: 'overloaded' }));
    let waited = false;
    const room = loaded.room(signal).then(() => {
      waited = true;
    });
    await Promise.resolve();
    expect(waited).toBe(false);
    loaded.release(held);
    await room;
    expect(loaded.acquire(again).source).toBe('host');
  });

  it('lets nobody wait for room who has given up', async () => {
    const cancellation = new AbortController();
    const room = pool(2 ** 30).room(cancellation.signal);
    cancellation.abort(new Error('gave up'));
    await expect(room).rejects.toThrow('gave up');
  });

  it('makes room for the tail of a longer query by the others, not by its own context', () => {
    const loaded = pool(2 * contextBytes + tokenBytes);
    use(loaded, a, b);
    const context = loaded.acquire(request(b, { tailTokens: 10 }));
    expect(context.source).toBe('host');
    expect(loaded.sizeBytes).toBeLessThanOrEqual(2 * contextBytes + tokenBytes);
    expect(logitsOn(context)).toEqual(expectedLogits(b));
  });

  it('drops a deleted context at once, or when its last query gives it back', () => {
    const loaded = pool(2 ** 30);
    use(loaded, a);
    const [first, second] = [loaded.acquire(request(b)), loaded.acquire(request(b))];
    loaded.drop(a.id);
    loaded.drop(b.id);
    loaded.drop(c.id);
    expect(loaded.sizeBytes).toBe(contextBytes + 2 * tokenBytes);
    loaded.release(first);
    expect(logitsOn(second)).toEqual(expectedLogits(b));
    loaded.release(second);
    expect(loaded.sizeBytes).toBe(0);
  });

  it('holds nothing of a context that could not be read', () => {
    const watched = watchedStore();
    watched.failing = true;
    const loaded = pool(2 ** 30, watched.store);
    expect(() => loaded.acquire(request(a))).toThrow(
      expect.objectContaining({ code: 'corrupt_record' }),
    );
    expect(loaded.sizeBytes).toBe(0);
  });

  it('holds nothing once it is closed, however often', () => {
    const loaded = pool(2 ** 30);
    use(loaded, a, b);
    loaded.acquire(request(c));
    loaded.close();
    loaded.close();
    expect(loaded.sizeBytes).toBe(0);
  });
});

describe('memory for what is not stored', () => {
  const view = () => {
    const cache = engine.runtime.createContext(new Uint32Array(4).fill(3));
    return cache.view(cache.lengths);
  };

  it('is taken from idle contexts, and given back', () => {
    const loaded = pool(contextBytes + 5 * tokenBytes);
    use(loaded, a);
    const borrowed = loaded.borrow(9, view);
    expect(borrowed.source).toBe('none');
    expect(loaded.sizeBytes).toBeLessThanOrEqual(contextBytes + 5 * tokenBytes);
    expect(() => loaded.acquire(request(a))).toThrow(
      expect.objectContaining({ code: 'overloaded' }),
    );
    loaded.release(borrowed);
    expect(use(loaded, a, a)).toEqual(['disk', 'host']);
  });

  it('is refused, before anything is made, if there is not as much, or if others hold it', () => {
    const loaded = pool(contextBytes + 5 * tokenBytes);
    const never = () => {
      throw new Error('made');
    };
    expect(() => loaded.borrow(2000, never)).toThrow(
      expect.objectContaining({ code: 'out_of_memory' }),
    );
    const held = loaded.acquire(request(a));
    expect(() => loaded.borrow(5, never)).toThrow(expect.objectContaining({ code: 'overloaded' }));
    loaded.release(held);
    expect(loaded.borrow(5, view).source).toBe('none');
  });
});
