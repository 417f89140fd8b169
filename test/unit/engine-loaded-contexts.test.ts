import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { resolvePrecision } from '../../src/compression/registry.ts';
import { AssertionError } from '../../src/core/assert.ts';
import type { ContextRecord } from '../../src/core/context.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import { contextLengths, LoadedContexts } from '../../src/engine/loaded-contexts.ts';
import type { ContextStore } from '../../storage/context-store.ts';
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

/** Loads contexts one after another and gives each back. */
function use(loaded: LoadedContexts, ...records: readonly ContextRecord[]): void {
  for (const record of records) loaded.release(loaded.acquire(request(record)));
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
    expect(again).toBe(first);
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

describe('the pool', () => {
  it('drops the least recently used context when it is full', () => {
    const loaded = pool(2 * contextBytes);
    use(loaded, a, b, a, c);
    expect([a, b, c].map((record) => loaded.has(record, 0.5))).toEqual([true, false, true]);
    expect(loaded.sizeBytes).toBe(2 * contextBytes);
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
    expect(loaded.has(a, 0.5)).toBe(true);
  });

  it('never drops what is in use: who finds no room shall come again', () => {
    const loaded = pool(2 * contextBytes);
    const held = [loaded.acquire(request(a)), loaded.acquire(request(b))];
    expect(() => loaded.acquire(request(c))).toThrow(
      expect.objectContaining({ code: 'overloaded', retryAfterSeconds: 1 }),
    );
    for (const context of held) loaded.release(context);
    use(loaded, c);
    expect(loaded.has(c, 0.5)).toBe(true);
  });

  it('counts the tail that a longer query needs', () => {
    const loaded = pool(2 * contextBytes);
    use(loaded, a, b);
    const tooLong = request(b, { tailTokens: 2000 });
    expect(() => loaded.acquire(tooLong)).toThrow(
      expect.objectContaining({ code: 'out_of_memory' }),
    );
    // Room for a longer tail is made by dropping others, not the context itself.
    const context = loaded.acquire(request(b, { tailTokens: 65 }));
    expect(loaded.has(a, 0.5)).toBe(false);
    expect(loaded.sizeBytes).toBeGreaterThan(contextBytes);
    loaded.release(context);
  });

  it('drops a deleted context at once, or when it is given back', () => {
    const loaded = pool(2 ** 30);
    use(loaded, a);
    const context = loaded.acquire(request(b));
    loaded.drop(a.id);
    loaded.drop(b.id);
    loaded.drop(c.id);
    expect(loaded.has(a, 0.5)).toBe(false);
    expect(context.cache.keys(0).length).toBeGreaterThan(0);
    loaded.release(context);
    expect(loaded.has(b, 0.5)).toBe(false);
    expect(loaded.sizeBytes).toBe(0);
  });

  it('drops a deleted context at every ratio', () => {
    const loaded = pool(2 ** 30);
    for (const keepRatio of [0.5, 0.25]) {
      loaded.release(loaded.acquire(request(a, { keepRatio })));
    }
    loaded.drop(a.id);
    expect(loaded.sizeBytes).toBe(0);
  });

  it('holds nothing of a context that could not be read', () => {
    const corrupt: ContextStore = {
      ...engine.store,
      readPairs: () => {
        throw new ReadonceError('corrupt_record', 'Checksum differs.');
      },
    };
    const loaded = pool(2 ** 30, corrupt);
    expect(() => loaded.acquire(request(a))).toThrow(
      expect.objectContaining({ code: 'corrupt_record' }),
    );
    expect(loaded.has(a, 0.5)).toBe(false);
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

describe.each(['global', 'uniform'])('a smaller keepRatio with budget %s', (budget) => {
  const records = new Map<number, ContextRecord>();
  beforeEach(async () => {
    for (const keepRatio of [0.6, 0.3, 0.05, 0.001]) {
      const compression = { method: 'kvzip', keepRatio, budget };
      const document = 'Ada Finch laid the first stone of the observatory in 1908.';
      const { record } = await engine.ingest(document, { request: { compression } });
      records.set(keepRatio, record);
    }
  });

  it('loads the rows that an ingestion at that ratio would have kept', () => {
    const stored = records.get(0.6);
    for (const [keepRatio, fresh] of records) {
      if (stored === undefined) throw new Error('expected the largest');
      const lengths = contextLengths(engine.store, stored, keepRatio);
      expect([...lengths]).toEqual(fresh.pairCounts);
      for (const head of lengths.keys()) {
        const { positions } = engine.store.readRanking(stored.id, head);
        const expected = engine.store.readRanking(fresh.id, head);
        expect(positions.subarray(0, expected.positions.length)).toEqual(expected.positions);
      }
    }
  });
});
