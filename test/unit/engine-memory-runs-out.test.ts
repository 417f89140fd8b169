import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/core/clock.ts';
import type { ContextRecord } from '../../src/core/context.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import { tokenizeDocument } from '../../src/engine/document.ts';
import { ingest } from '../../src/engine/ingest.ts';
import { LoadedContexts } from '../../src/engine/loaded-contexts.ts';
import { readPrompt } from '../../src/engine/prompt-context.ts';
import { Scheduler } from '../../src/engine/scheduler.ts';
import type {
  ContextCache,
  ForwardSlot,
  HostTier,
  Pieces,
  Runtime,
} from '../../src/runtime/runtime.ts';
import { ingestRequest } from '../support/engine.ts';
import { acquire, LoadedBench, request, use } from '../support/loaded-contexts.ts';

const noMemory = expect.objectContaining({ code: 'out_of_memory' }) as unknown;

let bench: LoadedBench;
let records: readonly ContextRecord[];

beforeAll(async () => {
  bench = await LoadedBench.open();
  records = [await bench.put('1'), await bench.put('2'), await bench.put('3')];
});
afterAll(() => bench.close());

function refuse(): never {
  throw new ReadonceError('out_of_memory', 'none left');
}

/** A pool that has room for all, on a device that has memory for `most` contexts. */
function open(most: number) {
  const open = new Set<ContextCache>();
  const state = {
    viewsToFail: 0,
    restores: 0,
    mostWhileComputing: Infinity,
    mostWhileEncoding: Infinity,
    mostInLastPieces: Infinity,
  };
  const watch = (cache: ContextCache): ContextCache => {
    open.add(cache);
    const close = cache.close.bind(cache);
    const view = cache.view.bind(cache);
    cache.close = () => {
      open.delete(cache);
      close();
    };
    cache.view = (lengths) => {
      if (state.viewsToFail-- > 0) refuse();
      return view(lengths);
    };
    return cache;
  };
  const cut = function* (pieces: Pieces): Generator<() => void> {
    let run = 0;
    for (const piece of pieces) {
      yield () => {
        if (run++ > 0 && open.size > state.mostInLastPieces) refuse();
        piece();
      };
    }
  };
  const hostTier: HostTier = {
    poolBytes: 2 ** 30,
    copyBytes: () => 1,
    copy: ({ lengths }) => ({
      lengths: lengths.slice(),
      sizeBytes: 1,
      covering: (some) => some,
      close: () => undefined,
    }),
    restore: () => {
      state.restores++;
      return refuse();
    },
  };
  const runtime = new Proxy<Runtime>(bench.engine.runtime, {
    get: (target, name) => {
      if (name === 'hostTier') return hostTier;
      if (name === 'createContext') {
        return (lengths: Uint32Array) =>
          open.size < most ? watch(target.createContext(lengths)) : refuse();
      }
      if (name === 'forward') {
        return (slots: readonly ForwardSlot[]) =>
          open.size > state.mostWhileComputing ? refuse() : target.forward(slots);
      }
      if (name === 'createDense') {
        return (capacity: number) => {
          const dense = target.createDense(capacity);
          const pairs = dense.pairs.bind(dense);
          dense.pairs = (...of) => (open.size > state.mostWhileEncoding ? refuse() : pairs(...of));
          return dense;
        };
      }
      if (name === 'prefill') {
        return (...call: Parameters<Runtime['prefill']>) =>
          open.size > state.mostWhileComputing ? refuse() : cut(target.prefill(...call));
      }
      if (name === 'score') {
        return (...call: Parameters<Runtime['score']>) => cut(target.score(...call));
      }
      if (name === 'contextOf') {
        return (dense: Parameters<Runtime['contextOf']>[0]) => watch(target.contextOf(dense));
      }
      const value = Reflect.get(target, name) as unknown;
      return typeof value === 'function' ? (value.bind(target) as unknown) : value;
    },
  });
  const { store } = bench.engine;
  const loaded = new LoadedContexts({ runtime, store, poolBytes: 2 ** 30 });
  return { runtime, loaded, state, openCaches: () => open.size };
}

describe('where a device has no memory left', () => {
  it('idle contexts give way, the least recently used first, and those in use stay', () => {
    const [a, b, c] = records as [ContextRecord, ContextRecord, ContextRecord];
    const { loaded, openCaches } = open(2);
    const used = acquire(loaded, request(a));
    expect(use(loaded, b, c)).toEqual(['disk', 'disk']);
    expect(openCaches()).toBe(2);
    expect(use(loaded, c)).toEqual(['host']);
    const second = acquire(loaded, request(c));
    expect(() => acquire(loaded, request(b))).toThrow(noMemory);
    expect(bench.logitsOn(used)).toEqual(bench.expectedLogits(a));
    for (const context of [used, second]) loaded.release(context);
    loaded.close();
    expect(openCaches()).toBe(0);
  });

  it('idle contexts give way to the tails of running answers', async () => {
    const [a, b, c] = records as [ContextRecord, ContextRecord, ContextRecord];
    const { runtime, loaded, state, openCaches } = open(3);
    const withRoom = <T>(call: () => T): T => loaded.withRoom(call);
    const limits = { maxRunning: 2, maxWaitMs: 1000 };
    const scheduler = new Scheduler({ runtime, clock: systemClock, withRoom, ...limits });
    use(loaded, b, c);
    const context = acquire(loaded, request(a));
    const tail = runtime.createTail();
    const slot = { context: context.view, tail, ids: Int32Array.of(5, 6), startPosition: 100 };
    state.mostWhileComputing = 2;
    const logits = await scheduler.forward(slot);
    expect(logits.values()).toEqual(bench.expectedLogits(a));
    expect(openCaches()).toBe(2);
    state.mostWhileComputing = 0;
    await expect(scheduler.forward(slot)).rejects.toEqual(noMemory);
    expect([openCaches(), tail.length]).toEqual([1, 2]);
    tail.close();
    loaded.close();
  });

  it('idle contexts give way to documents and prompts that are read', async () => {
    const [a, b] = records as [ContextRecord, ContextRecord];
    const { runtime, loaded, state, openCaches } = open(3);
    state.mostWhileComputing = 0;
    const { scheduler, checkpoint, store } = bench.engine;
    const parts = { runtime, loaded, scheduler, checkpoint, store, clock: systemClock };
    const { signal } = new AbortController();
    use(loaded, a);
    const prompt = { ids: Int32Array.of(1, 2, 3, 4), tailTokens: 1, signal };
    (await readPrompt({ ...parts, sliceTokens: 8 }, prompt)).close();
    expect(openCaches()).toBe(0);
    use(loaded, a, b);
    const asked = ingestRequest('4 4 4');
    const document = tokenizeDocument(checkpoint, asked);
    const call = { request: asked, document, onProgress: () => undefined, signal };
    await ingest({ ...parts, sliceTokens: 8 }, call);
    expect(openCaches()).toBe(0);
    use(loaded, a, b);
    Object.assign(state, { mostWhileComputing: Infinity, mostWhileEncoding: 1 });
    await bench.engine.store.delete(document.id);
    await ingest({ ...parts, sliceTokens: 8 }, call);
    expect(openCaches()).toBe(1);
    loaded.close();
  });

  it('documents are read on where it ran out, with the same result', async () => {
    const [a, b, c] = records as [ContextRecord, ContextRecord, ContextRecord];
    const { runtime, loaded, state, openCaches } = open(3);
    const { scheduler, checkpoint, store } = bench.engine;
    const asked = ingestRequest('5 5 5 6 7');
    const document = tokenizeDocument(checkpoint, asked);
    const read = async () => {
      const parts = { runtime, loaded, scheduler, checkpoint, store, clock: systemClock };
      const { signal } = new AbortController();
      const call = { request: asked, document, onProgress: () => undefined, signal };
      const { record } = await ingest({ ...parts, sliceTokens: 8 }, call);
      const logits = bench.expectedLogits(record);
      await store.delete(record.id);
      return { pairCounts: record.pairCounts, logits };
    };
    const expected = await read();
    use(loaded, a, b, c);
    state.mostInLastPieces = 1;
    expect(await read()).toEqual(expected);
    expect(openCaches()).toBe(1);
    const used = acquire(loaded, request(c));
    state.mostInLastPieces = 0;
    await expect(read()).rejects.toEqual(noMemory);
    expect(openCaches()).toBe(1);
    loaded.release(used);
    loaded.close();
  });

  it('nothing gives way for what the pool could never hold', () => {
    const [a, b] = records as [ContextRecord, ContextRecord];
    const { loaded, openCaches } = open(2);
    use(loaded, a);
    expect(() => acquire(loaded, request(b, { tailTokens: 2 ** 24 }))).toThrow(noMemory);
    expect(openCaches()).toBe(1);
    loaded.close();
  });

  it('nothing gives way where all that is idle were too little, or is other memory', () => {
    const { loaded, openCaches } = open(2);
    use(loaded, ...records.slice(0, 1));
    const idleBytes = loaded.sizeBytes;
    const ask = (details: Readonly<Record<string, unknown>>) => () =>
      loaded.withRoom(() => {
        throw new ReadonceError('out_of_memory', 'too much', { details });
      });
    expect(ask({ sizeBytes: 51 + 1.25 * idleBytes, freeBytes: 50 })).toThrow('too much');
    expect(ask({ sizeBytes: 1, memory: 'host' })).toThrow('too much');
    expect(openCaches()).toBe(1);
    expect(ask({ sizeBytes: 50 + idleBytes, freeBytes: 50 })).toThrow('too much');
    expect(openCaches()).toBe(0);
    loaded.close();
  });

  it('a context whose rows could not all be loaded is loaded again, not answered from', () => {
    const [a] = records as [ContextRecord];
    const { loaded, state, openCaches } = open(2);
    state.viewsToFail = 1;
    expect(() => acquire(loaded, request(a))).toThrow(noMemory);
    expect(openCaches()).toBe(0);
    // The same when it was there, with fewer rows.
    const half = request(a, { keepRatio: a.compression.keepRatio / 2 });
    loaded.release(acquire(loaded, half));
    state.viewsToFail = 1;
    expect(() => acquire(loaded, request(a))).toThrow(noMemory);
    expect(openCaches()).toBe(0);
    const again = acquire(loaded, request(a));
    expect(again.source).toBe('disk');
    expect(bench.logitsOn(again)).toEqual(bench.expectedLogits(a));
    loaded.close();
  });

  it('a copy in host memory that does not fit is no reason not to read fewer rows', () => {
    const [a, b] = records as [ContextRecord, ContextRecord];
    const { loaded, state } = open(1);
    use(loaded, a, b);
    expect(use(loaded, a)).toEqual(['disk']);
    expect(state.restores).toBeGreaterThan(0);
    loaded.close();
  });

  it('a prompt that was read and cannot be seen is forgotten', async () => {
    const { runtime, loaded, state, openCaches } = open(1);
    state.viewsToFail = 1;
    const { scheduler } = bench.engine;
    const dependencies = { runtime, loaded, scheduler, sliceTokens: 8 };
    const { signal } = new AbortController();
    const prompt = { ids: Int32Array.of(1, 2, 3, 4), tailTokens: 1, signal };
    await expect(readPrompt(dependencies, prompt)).rejects.toThrow('none left');
    expect([openCaches(), loaded.sizeBytes]).toEqual([0, 0]);
    loaded.close();
  });
});
