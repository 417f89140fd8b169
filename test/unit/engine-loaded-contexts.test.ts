import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { resolvePrecision } from '../../src/compression/registry.ts';
import { AssertionError } from '../../src/core/assert.ts';
import type { ContextRecord } from '../../src/core/context.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import { contextLengths } from '../../src/engine/context-rows.ts';
import { LoadedContexts } from '../../src/engine/loaded-contexts.ts';
import type { RaggedCache } from '../../src/runtime/runtime.ts';
import type { ContextStore, HeadPairs } from '../../storage/context-store.ts';
import { TestEngine } from '../support/engine.ts';
import { randomCheckpoint, type RandomCheckpoint } from '../support/random-checkpoint.ts';

let random: RandomCheckpoint;
let engine: TestEngine;
/** Contexts of the same size. */
let a: ContextRecord;
let b: ContextRecord;
let c: ContextRecord;
/** Bytes of one of them with the smallest tail. */
let contextBytes: number;
/** Bytes of a key and a value of 16 elements. */
const rowBytes = 2 * 16 * Float32Array.BYTES_PER_ELEMENT;

beforeAll(async () => {
  random = await randomCheckpoint();
  engine = await TestEngine.open({ checkpoint: random.checkpoint });
  const put = async (document: string): Promise<ContextRecord> => {
    const compression = { method: 'random', budget: 'uniform', keepRatio: 0.5 };
    return (await engine.ingest(document, { request: { compression } })).record;
  };
  [a, b, c] = [await put(repeat('1')), await put(repeat('2')), await put(repeat('3'))];
  const loaded = pool(2 ** 30);
  loaded.acquire(request(a));
  contextBytes = loaded.sizeBytes;
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

/** All rows that attention sees, to compare. */
function seenRows(cache: RaggedCache): readonly (readonly Float32Array[])[] {
  return Array.from(cache.lengths, (_, head) => [cache.keys(head), cache.values(head)]);
}

describe('a loaded context', () => {
  it('has the stored rows, decoded, in stored order', () => {
    const { cache } = pool(2 ** 30).acquire(request(a));
    expect([...cache.lengths]).toEqual(a.pairCounts);
    const precision = resolvePrecision('f16');
    const { headDim } = a.layout;
    for (const head of a.pairCounts.keys()) {
      const keys = cache.keys(head);
      let row = 0;
      for (const piece of engine.store.readPairs(a.id, head)) {
        const expected = new Float32Array(piece.rows * headDim);
        precision.decode(piece.keys, expected, headDim);
        const end = row + piece.rows;
        expect(keys.subarray(row * headDim, end * headDim)).toEqual(expected);
        row = end;
      }
      expect(row).toBe(cache.lengths[head]);
    }
  });

  it('has room for the query, also the second time', () => {
    const loaded = pool(2 ** 30);
    const first = loaded.acquire(request(a, { tailTokens: 10 }));
    expect(first.cache.tailCapacity).toBeGreaterThanOrEqual(10);
    const keys = [...first.cache.keys(1)];
    loaded.release(first);
    const again = loaded.acquire(request(a, { tailTokens: 500 }));
    expect([first.source, again.source]).toEqual(['disk', 'host']);
    expect(again.cache).toBe(first.cache);
    expect(again.cache.tailCapacity).toBeGreaterThanOrEqual(500);
    expect([...again.cache.keys(1)]).toEqual(keys);
  });

  it('is given back without its tail', () => {
    const loaded = pool(2 ** 30);
    const context = loaded.acquire(request(a, { tailTokens: 4 }));
    const { cache } = context;
    engine.runtime.forward([{ cache, ids: Int32Array.of(5, 6), startPosition: 100 }]);
    expect(cache.tailLength).toBe(2);
    loaded.release(context);
    expect(loaded.acquire(request(a)).cache.tailLength).toBe(0);
  });

  it('serves one query at a time and is given back once', () => {
    const loaded = pool(2 ** 30);
    const context = loaded.acquire(request(a));
    expect(() => loaded.acquire(request(a))).toThrow(AssertionError);
    loaded.release(context);
    expect(() => loaded.release(context)).toThrow(AssertionError);
  });
});

describe('a loaded context at another keepRatio', () => {
  it('sees fewer rows of those it has, and all of them again', () => {
    const watched = watchedStore();
    const loaded = pool(2 ** 30, watched.store);
    const whole = loaded.acquire(request(a));
    const expected = seenRows(whole.cache).map((rows) => rows.map((row) => row.slice()));
    loaded.release(whole);
    const rows = watched.rows;
    const lengths = contextLengths(engine.store, a, 0.2);
    const short = loaded.acquire(request(a, { keepRatio: 0.2 }));
    expect([short.source, short.cache]).toEqual(['host', whole.cache]);
    expect(short.cache.lengths).toEqual(lengths);
    const { headDim } = a.layout;
    expect(seenRows(short.cache)).toEqual(
      expected.map((ofHead, head) =>
        ofHead.map((row) => row.subarray(0, (lengths[head] ?? 0) * headDim)),
      ),
    );
    engine.runtime.forward([{ cache: short.cache, ids: Int32Array.of(5), startPosition: 100 }]);
    loaded.release(short);
    const again = loaded.acquire(request(a));
    expect(again.source).toBe('host');
    expect(seenRows(again.cache)).toEqual(expected);
    expect(watched.rows).toBe(rows);
  });

  it('has only the missing rows read when it is asked for more', () => {
    const watched = watchedStore();
    const loaded = pool(2 ** 30, watched.store);
    const short = loaded.acquire(request(a, { keepRatio: 0.2 }));
    expect(watched.rows).toBe(total(short.cache.lengths));
    engine.runtime.forward([{ cache: short.cache, ids: Int32Array.of(5), startPosition: 100 }]);
    loaded.release(short);
    const whole = loaded.acquire(request(a));
    expect(whole.source).toBe('disk');
    expect(watched.rows).toBe(total(a.pairCounts));
    const fresh = pool(2 ** 30).acquire(request(a));
    expect(seenRows(whole.cache)).toEqual(seenRows(fresh.cache));
  });

  it('gives up rows that are not asked for, if there is no room for them and the tail', () => {
    const loaded = pool(contextBytes);
    use(loaded, a);
    const tailTokens = 64 + 20;
    expect(() => loaded.acquire(request(a, { tailTokens }))).toThrow(
      expect.objectContaining({ code: 'out_of_memory' }),
    );
    expect(use(loaded, a)).toEqual(['host']);
    const roomy = pool(contextBytes + 4 * 40 * rowBytes);
    use(roomy, a);
    const short = roomy.acquire(request(a, { keepRatio: 0.01, tailTokens: 65 }));
    expect(short.source).toBe('host');
    expect(short.cache.heldLengths).toEqual(contextLengths(engine.store, a, 0.01));
    expect(short.cache.tailCapacity).toBe(128);
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
});

describe('a context that was deleted and ingested again', () => {
  it('is loaded anew, and refused to whoever still knows the old one', async () => {
    const request4 = { compression: { method: 'random', budget: 'uniform', keepRatio: 0.5 } };
    const old = (await engine.ingest(repeat('4'), { request: request4 })).record;
    const loaded = pool(2 ** 30);
    use(loaded, old);
    await engine.store.delete(old.id);
    const { record } = await engine.ingest(repeat('4'), { request: request4 });
    expect(record.createdAtMs).toBeGreaterThan(old.createdAtMs);
    expect(use(loaded, record)).toEqual(['disk']);
    expect(() => loaded.acquire(request(old))).toThrow(
      expect.objectContaining({ code: 'conflict' }),
    );
    expect(loaded.sizeBytes).toBe(0);
  });
});

describe('the pool', () => {
  it('drops the least recently used context when it is full', () => {
    const loaded = pool(2 * contextBytes);
    use(loaded, a, b, a, c);
    expect(loaded.sizeBytes).toBe(2 * contextBytes);
    expect(use(loaded, a, c, b)).toEqual(['host', 'host', 'disk']);
  });

  it('takes no more than the tail of an idle context if that makes room', () => {
    const loaded = pool(2 * contextBytes - 4 * 64 * rowBytes);
    expect(use(loaded, a, b, a, b)).toEqual(['disk', 'disk', 'host', 'host']);
  });

  it.each([1 / 2, 1 / 4, 1 / 8])('shortens an idle context to %d of its rows', (fraction) => {
    const left = a.pairCounts.map(
      (count) => a.prefixTokens + Math.floor((count - a.prefixTokens) * fraction),
    );
    const watched = watchedStore();
    const loaded = pool(contextBytes + total(left) * rowBytes, watched.store);
    use(loaded, a, b);
    expect(loaded.sizeBytes).toBe(contextBytes + total(left) * rowBytes);
    watched.rows = 0;
    const again = loaded.acquire(request(a));
    expect(again.source).toBe('disk');
    expect(watched.rows).toBe(total(a.pairCounts) - total(left));
    const fresh = pool(2 ** 30).acquire(request(a));
    expect(seenRows(again.cache)).toEqual(seenRows(fresh.cache));
  });

  it('drops an idle context that would be left with less', () => {
    const loaded = pool(contextBytes + 4 * a.prefixTokens * rowBytes);
    use(loaded, a, b);
    expect(loaded.sizeBytes).toBe(contextBytes);
  });

  it('leaves contexts alone that were used later, if earlier ones make room', () => {
    const left = total(a.pairCounts) / 2;
    const loaded = pool(2 * contextBytes + left * rowBytes);
    use(loaded, a, b, c);
    expect(use(loaded, c, b)).toEqual(['host', 'host']);
    expect(loaded.sizeBytes).toBeGreaterThan(2 * contextBytes);
  });

  it('refuses what is larger than all of it, and drops nothing for that', () => {
    const loaded = pool(contextBytes);
    use(loaded, a);
    expect(() => loaded.acquire(request(b, { tailTokens: 2000 }))).toThrow(
      expect.objectContaining({
        code: 'out_of_memory',
        message: expect.stringContaining(`at most ${contextBytes} bytes`) as string,
      }),
    );
    expect(use(loaded, a)).toEqual(['host']);
  });

  it('never drops what is in use: who finds no room shall come again', () => {
    const loaded = pool(2 * contextBytes);
    const held = [loaded.acquire(request(a)), loaded.acquire(request(b))];
    expect(() => loaded.acquire(request(c))).toThrow(
      expect.objectContaining({ code: 'overloaded', retryAfterSeconds: 1 }),
    );
    for (const context of held) loaded.release(context);
    use(loaded, c);
    expect(use(loaded, c)).toEqual(['host']);
  });

  it('counts the tail that a longer query needs', () => {
    const loaded = pool(2 * contextBytes);
    use(loaded, a, b);
    const tooLong = request(b, { tailTokens: 2000 });
    expect(() => loaded.acquire(tooLong)).toThrow(
      expect.objectContaining({ code: 'out_of_memory' }),
    );
    // Room for a longer tail is made by the others, not by the context itself.
    const context = loaded.acquire(request(b, { tailTokens: 65 }));
    expect(context.source).toBe('host');
    expect(loaded.sizeBytes).toBeLessThanOrEqual(2 * contextBytes);
    loaded.release(context);
  });

  it('drops a deleted context at once, or when it is given back', () => {
    const loaded = pool(2 ** 30);
    use(loaded, a);
    const context = loaded.acquire(request(b));
    loaded.drop(a.id);
    loaded.drop(b.id);
    loaded.drop(c.id);
    expect(loaded.sizeBytes).toBe(contextBytes);
    expect(context.cache.keys(0).length).toBeGreaterThan(0);
    loaded.release(context);
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
    loaded.close();
    loaded.close();
    expect(loaded.sizeBytes).toBe(0);
  });
});
