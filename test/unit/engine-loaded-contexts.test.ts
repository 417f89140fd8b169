import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { resolvePrecision } from '../../src/compression/registry.ts';
import { AssertionError, defined } from '../../src/core/assert.ts';
import type { ContextRecord } from '../../src/core/context.ts';
import { contextLengths } from '../../src/engine/context-rows.ts';
import { LoadedContexts } from '../../src/engine/loaded-contexts.ts';
import type { Runtime } from '../../src/runtime/runtime.ts';
import type { ContextStore } from '../../storage/context-store.ts';
import {
  acquire,
  LoadedBench,
  request,
  rowBytes,
  tokenBytes,
  total,
  use,
} from '../support/loaded-contexts.ts';
import type { NaiveHead } from '../support/naive-decoder.ts';
import { forwardAlone, loadContext } from '../support/ragged.ts';

let bench: LoadedBench;
/** Contexts of the same size. */
let a: ContextRecord;
let b: ContextRecord;
/** Bytes of one of them. */
let contextBytes: number;

beforeAll(async () => {
  bench = await LoadedBench.open();
  [a, b] = [await bench.put('1'), await bench.put('2')];
  contextBytes = total(a.pairCounts) * rowBytes;
});
afterAll(() => bench.close());

/** The rows of a context as numbers, best first. */
function storedHeads(store: ContextStore, record: ContextRecord): readonly NaiveHead[] {
  const precision = resolvePrecision(record.compression.precision);
  const { headDim } = record.layout;
  const rows = (encoded: Uint8Array, count: number): number[][] => {
    const floats = new Float32Array(count * headDim);
    precision.decode(encoded, floats, headDim);
    return Array.from({ length: count }, (_, row) => [
      ...floats.subarray(row * headDim, (row + 1) * headDim),
    ]);
  };
  return record.pairCounts.map((_, head) => {
    const pieces = [...store.readPairs(record.id, head)];
    return {
      keys: pieces.flatMap((piece) => rows(piece.keys, piece.rows)),
      values: pieces.flatMap((piece) => rows(piece.values, piece.rows)),
    };
  });
}

describe('a loaded context', () => {
  it('has the stored rows, decoded, in stored order', () => {
    const { loaded, caches } = bench.openPool();
    const { view } = acquire(loaded, request(a));
    expect([...view.lengths]).toEqual(a.pairCounts);
    const loadedCache = defined(caches[0], 'a cache');
    const { runtime, store } = bench.engine;
    const expected = loadContext(runtime, storedHeads(store, a));
    // Of fewer rows, too, which depend on their order.
    for (const lengths of [expected.lengths, expected.lengths.map((length) => length >> 1)]) {
      const [logits, same] = [loadedCache, expected].map((cache) => {
        const parts = { context: cache.view(lengths), tail: runtime.createTail() };
        return forwardAlone(runtime, parts, { ids: Int32Array.of(5, 6), startPosition: 100 });
      });
      expect(logits).toEqual(same);
    }
  });

  it('is where its runtime has it, and takes as many bytes as that says', () => {
    const { runtime, store } = bench.engine;
    const device = new Proxy<Runtime>(runtime, {
      get(target, name) {
        if (name === 'memory') return 'device';
        if (name === 'rowBytes') return rowBytes / 2;
        const member = Reflect.get(target, name) as unknown;
        return typeof member === 'function' ? (member.bind(target) as unknown) : member;
      },
    });
    const loaded = new LoadedContexts({ runtime: device, store, poolBytes: 2 ** 30 });
    expect(use(loaded, a, a)).toEqual(['disk', 'device']);
    acquire(loaded, request(a, { tailTokens: 10 }));
    expect(loaded.sizeBytes).toBe(contextBytes + 5 * tokenBytes);
  });

  it('is read once, and has memory set aside for the tail of each query', () => {
    const { loaded, caches } = bench.openPool();
    const first = acquire(loaded, request(a, { tailTokens: 10 }));
    expect(loaded.sizeBytes).toBe(contextBytes + 10 * tokenBytes);
    loaded.release(first);
    expect(loaded.sizeBytes).toBe(contextBytes);
    const again = acquire(loaded, request(a, { tailTokens: 500 }));
    expect([first.source, again.source]).toEqual(['disk', 'host']);
    expect(caches).toHaveLength(1);
    expect(loaded.sizeBytes).toBe(contextBytes + 500 * tokenBytes);
  });

  it('serves several queries at once, which see it through one view', () => {
    const { loaded, caches } = bench.openPool();
    const [first, second] = [acquire(loaded, request(a)), acquire(loaded, request(a))];
    expect(caches).toHaveLength(1);
    expect(second.view).toBe(first.view);
    expect([first.source, second.source]).toEqual(['disk', 'host']);
    expect(loaded.sizeBytes).toBe(contextBytes + 2 * tokenBytes);
    loaded.release(first);
    expect(bench.logitsOn(second)).toEqual(bench.expectedLogits(a));
  });

  it('is given back once by each query', () => {
    const loaded = bench.pool(2 ** 30);
    const context = acquire(loaded, request(a));
    loaded.release(context);
    expect(() => loaded.release(context)).toThrow(AssertionError);
  });

  it('is given back by a session, which keeps the memory of its tail', () => {
    const loaded = bench.pool(contextBytes + 10 * tokenBytes);
    const context = acquire(loaded, request(a, { tailTokens: 10 }));
    loaded.park(context, 3 * tokenBytes);
    expect(loaded.sizeBytes).toBe(contextBytes + 3 * tokenBytes);
    // The context is idle: it makes room.
    loaded.release(acquire(loaded, request(b, { tailTokens: 7 })));
    expect(acquire(loaded, request(a, { keepRatio: 0.01 })).source).toBe('disk');
    loaded.release(context);
    expect(() => loaded.release(context)).toThrow(AssertionError);
  });
});

describe('a loaded context at another keepRatio', () => {
  it('sees fewer rows of those it has, and all of them again', () => {
    const watched = bench.watchedStore();
    const { loaded, caches } = bench.openPool(watched.store);
    loaded.release(acquire(loaded, request(a)));
    const rows = watched.rows;
    const short = acquire(loaded, request(a, { keepRatio: 0.2 }));
    expect(short.source).toBe('host');
    expect(short.view.lengths).toEqual(contextLengths(bench.engine.store, a, 0.2));
    expect(bench.logitsOn(short)).toEqual(bench.expectedLogits(a, 0.2));
    loaded.release(short);
    const again = acquire(loaded, request(a));
    expect(again.source).toBe('host');
    expect(bench.logitsOn(again)).toEqual(bench.expectedLogits(a));
    expect(watched.rows).toBe(rows);
    expect(caches).toHaveLength(1);
  });

  it('serves several ratios at once', () => {
    const { loaded, caches } = bench.openPool();
    const contexts = [0.5, 0.2, 0.1, 0.2].map((keepRatio) =>
      acquire(loaded, request(a, { keepRatio })),
    );
    expect(caches).toHaveLength(1);
    expect(contexts.map(({ source }) => source)).toEqual(['disk', 'host', 'host', 'host']);
    expect(contexts.map(bench.logitsOn)).toEqual(
      [0.5, 0.2, 0.1, 0.2].map((keepRatio) => bench.expectedLogits(a, keepRatio)),
    );
    expect(loaded.sizeBytes).toBe(contextBytes + 4 * tokenBytes);
  });

  it('has only the missing rows read when it is asked for more', () => {
    const watched = bench.watchedStore();
    const { loaded, caches } = bench.openPool(watched.store);
    const short = acquire(loaded, request(a, { keepRatio: 0.2 }));
    expect(watched.rows).toBe(total(short.view.lengths));
    loaded.release(short);
    const whole = acquire(loaded, request(a));
    expect(whole.source).toBe('disk');
    expect(watched.rows).toBe(total(a.pairCounts));
    expect(bench.logitsOn(whole)).toEqual(bench.expectedLogits(a));
    expect(caches).toHaveLength(1);
  });

  it('grows while it is in use: who uses it keeps what it sees', () => {
    const watched = bench.watchedStore();
    const { loaded, caches } = bench.openPool(watched.store);
    const short = acquire(loaded, request(a, { keepRatio: 0.2 }));
    const shortBytes = total(short.view.lengths) * rowBytes;
    const before = bench.logitsOn(short);
    const whole = acquire(loaded, request(a));
    expect(whole.source).toBe('disk');
    expect(watched.rows).toBe(total(a.pairCounts));
    expect(bench.logitsOn(whole)).toEqual(bench.expectedLogits(a));
    expect(bench.logitsOn(short)).toEqual(before);
    // Both are in memory until the first is given back.
    expect(loaded.sizeBytes).toBe(shortBytes + contextBytes + 2 * tokenBytes);
    const next = acquire(loaded, request(a, { keepRatio: 0.2 }));
    expect(next.source).toBe('host');
    expect(bench.logitsOn(next)).toEqual(before);
    loaded.release(short);
    expect(caches.map(({ sizeBytes }) => sizeBytes)).toEqual([0, contextBytes]);
    loaded.release(whole);
    loaded.release(next);
    expect(loaded.sizeBytes).toBe(contextBytes);
  });

  it('waits with growing while it is in use until there is room for both', () => {
    const loaded = bench.pool(contextBytes + 2 * tokenBytes);
    const short = acquire(loaded, request(a, { keepRatio: 0.2 }));
    expect(() => acquire(loaded, request(a))).toThrow(
      expect.objectContaining({ code: 'overloaded' }),
    );
    expect(bench.logitsOn(short)).toEqual(bench.expectedLogits(a, 0.2));
    loaded.release(short);
    expect(bench.logitsOn(acquire(loaded, request(a)))).toEqual(bench.expectedLogits(a));
  });

  it('gives up rows that are not asked for, if there is no room for them and the tail', () => {
    const loaded = bench.pool(contextBytes + 4 * tokenBytes);
    use(loaded, a);
    expect(() => acquire(loaded, request(a, { tailTokens: 5 }))).toThrow(
      expect.objectContaining({ code: 'out_of_memory' }),
    );
    expect(use(loaded, a)).toEqual(['host']);
    const short = acquire(loaded, request(a, { keepRatio: 0.01, tailTokens: 5 }));
    expect(short.source).toBe('host');
    const lengths = contextLengths(bench.engine.store, a, 0.01);
    expect(short.view.lengths).toEqual(lengths);
    expect(loaded.sizeBytes).toBe(total(lengths) * rowBytes + 5 * tokenBytes);
  });

  it('is dropped if the missing rows cannot be read', () => {
    const watched = bench.watchedStore();
    const loaded = bench.pool(2 ** 30, watched.store);
    loaded.release(acquire(loaded, request(a, { keepRatio: 0.2 })));
    watched.failing = true;
    expect(() => acquire(loaded, request(a))).toThrow(
      expect.objectContaining({ code: 'corrupt_record' }),
    );
    expect(loaded.sizeBytes).toBe(0);
  });

  it('stays as it is for those who use it if the missing rows cannot be read', () => {
    const watched = bench.watchedStore();
    const { loaded, caches } = bench.openPool(watched.store);
    const short = acquire(loaded, request(a, { keepRatio: 0.2 }));
    watched.failing = true;
    expect(() => acquire(loaded, request(a))).toThrow(
      expect.objectContaining({ code: 'corrupt_record' }),
    );
    expect(caches[1]?.sizeBytes).toBe(0);
    expect(bench.logitsOn(short)).toEqual(bench.expectedLogits(a, 0.2));
    expect(loaded.sizeBytes).toBe(total(short.view.lengths) * rowBytes + tokenBytes);
  });
});

describe('a context that was deleted and ingested again', () => {
  const replaced = async (old: ContextRecord, word: string): Promise<ContextRecord> => {
    await bench.engine.store.delete(old.id);
    const record = await bench.put(word);
    expect(record.createdAtMs).toBeGreaterThan(old.createdAtMs);
    return record;
  };

  it('is loaded anew, and refused to whoever still knows the old one', async () => {
    const old = await bench.put('4');
    const loaded = bench.pool(2 ** 30);
    use(loaded, old);
    const record = await replaced(old, '4');
    expect(use(loaded, record)).toEqual(['disk']);
    expect(() => acquire(loaded, request(old))).toThrow(
      expect.objectContaining({ code: 'conflict' }),
    );
    expect(use(loaded, record)).toEqual(['host']);
  });

  it('stays beside the new one for those who use it', async () => {
    const old = await bench.put('5');
    const { loaded, caches } = bench.openPool();
    const held = acquire(loaded, request(old));
    const record = await replaced(old, '5');
    expect(use(loaded, record)).toEqual(['disk']);
    expect(bench.logitsOn(held)).toEqual(bench.expectedLogits(record));
    loaded.release(held);
    expect(caches.map(({ sizeBytes }) => sizeBytes)).toEqual([0, contextBytes]);
  });
});
