import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { ContextRecord } from '../../src/core/context.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import { loadContext } from '../../src/engine/load-context.ts';
import type { Claim, LoadedContext, LoadRequest } from '../../src/engine/loaded-context.ts';
import type { LoadedContexts } from '../../src/engine/loaded-contexts.ts';
import type { Runtime } from '../../src/runtime/runtime.ts';
import type { ContextStore, RowReading } from '../../storage/context-store.ts';
import { CountingTail, openScheduler, settle } from '../support/fake-device.ts';
import { Gate } from '../support/fake-engine.ts';
import {
  acquire,
  LoadedBench,
  request,
  rowBytes,
  tokenBytes,
  total,
  use,
} from '../support/loaded-contexts.ts';

let bench: LoadedBench;
/** Contexts of the same size. */
let a: ContextRecord;
let b: ContextRecord;
let contextBytes: number;
let watched: ReturnType<LoadedBench['watchedStore']>;

beforeAll(async () => {
  bench = await LoadedBench.open();
  [a, b] = [await bench.put('1'), await bench.put('2')];
  contextBytes = total(a.pairCounts) * rowBytes;
});
beforeEach(() => {
  watched = bench.watchedStore();
});
afterAll(() => bench.close());

const code = (expected: string): unknown => expect.objectContaining({ code: expected }) as unknown;
const noMemory = code('out_of_memory');

/** Has a context loaded to its end. */
function finish(claim: Claim): LoadedContext {
  for (;;) {
    const context = claim.advance();
    if (context !== undefined) return context;
  }
}

describe('a context that is loaded in pieces', () => {
  it('is loaded in one if it is small', () => {
    expect(
      bench
        .pool(2 ** 30)
        .claim(request(a))
        .advance()?.source,
    ).toBe('disk');
  });

  it('is handed out when all of its rows are there, and not before', () => {
    const claim = bench.poolInPieces().claim(request(a));
    let pieces = 1;
    let context = claim.advance();
    for (; context === undefined; pieces++) context = claim.advance();
    expect(pieces).toBeGreaterThanOrEqual(a.pairCounts.length);
    expect(bench.logitsOn(context)).toEqual(bench.expectedLogits(a));
  });

  it('is loaded once for all who ask for it meanwhile', () => {
    const loaded = bench.poolInPieces({ store: watched.store });
    const claims = [loaded.claim(request(a)), loaded.claim(request(a, { keepRatio: 0.2 }))];
    expect(claims.map((claim) => claim.advance())).toEqual([undefined, undefined]);
    expect(claims.map(({ isBehindOther }) => isBehindOther)).toEqual([false, true]);
    expect(loaded.sizeBytes).toBe(contextBytes + 2 * tokenBytes);
    const contexts = claims.toReversed().map(finish);
    expect(contexts.map(({ source }) => source)).toEqual(['disk', 'disk']);
    expect(watched.rows).toBe(total(a.pairCounts));
    expect(contexts.map(bench.logitsOn)).toEqual([
      bench.expectedLogits(a, 0.2),
      bench.expectedLogits(a),
    ]);
    for (const context of contexts) loaded.release(context);
    expect(use(loaded, a)).toEqual(['host']);
  });

  it('has more rows read for who needs more, when those are there', () => {
    const loaded = bench.poolInPieces({ store: watched.store });
    const short = loaded.claim(request(a, { keepRatio: 0.2 }));
    const whole = loaded.claim(request(a));
    expect([short.advance(), whole.advance()]).toEqual([undefined, undefined]);
    // It has no memory yet but what is there.
    expect(loaded.sizeBytes).toBeLessThan(contextBytes);
    const contexts = [finish(short), finish(whole)];
    expect(watched.rows).toBe(total(a.pairCounts));
    expect(contexts.map(bench.logitsOn)).toEqual([
      bench.expectedLogits(a, 0.2),
      bench.expectedLogits(a),
    ]);
  });

  it.each(['the pool', 'the store'])('is refused if it is deleted meanwhile: %s', async (from) => {
    const doomed = await bench.put('3');
    const loaded = bench.poolInPieces();
    const claims = [loaded.claim(request(doomed)), loaded.claim(request(doomed))];
    for (const claim of claims) claim.advance();
    await bench.engine.store.delete(doomed.id);
    if (from === 'the pool') loaded.drop(doomed.id);
    for (const claim of claims) expect(() => finish(claim)).toThrow(code('conflict'));
    expect(loaded.sizeBytes).toBe(0);
  });

  it('is refused if it is replaced meanwhile', async () => {
    const old = await bench.put('3');
    const loaded = bench.poolInPieces();
    const claim = loaded.claim(request(old));
    claim.advance();
    await bench.engine.store.delete(old.id);
    const record = await bench.put('3');
    const next = loaded.claim(request(record));
    next.advance();
    expect(() => finish(claim)).toThrow(code('conflict'));
    expect(bench.logitsOn(finish(next))).toEqual(bench.expectedLogits(record));
  });

  it('is loaded no further if nobody waits for it any more', () => {
    const loaded = bench.poolInPieces({ store: watched.store });
    const [first, second] = [loaded.claim(request(a)), loaded.claim(request(a))];
    for (const claim of [first, second]) claim.advance();
    for (const claim of [first, first]) claim.close();
    expect(loaded.sizeBytes).toBe(contextBytes + tokenBytes);
    expect(second.advance()).toBe(undefined);
    second.close();
    expect(loaded.sizeBytes).toBe(0);
    watched.rows = 0;
    expect(bench.logitsOn(acquire(loaded, request(a)))).toEqual(bench.expectedLogits(a));
    expect(watched.rows).toBe(total(a.pairCounts));
  });

  it('is loaded on for the others if who came first goes', () => {
    const loaded = bench.poolInPieces({ store: watched.store });
    const [first, second] = [loaded.claim(request(a)), loaded.claim(request(a))];
    for (const claim of [first, second]) claim.advance();
    first.close();
    expect(bench.logitsOn(finish(second))).toEqual(bench.expectedLogits(a));
    expect(watched.rows).toBe(total(a.pairCounts));
  });

  it('fails for all who wait, and gives its memory back', () => {
    const loaded = bench.poolInPieces({ store: watched.store });
    const claims = [loaded.claim(request(a)), loaded.claim(request(a))];
    for (const claim of claims) claim.advance();
    watched.failing = true;
    expect(() => claims[0]?.advance()).toThrow(code('corrupt_record'));
    watched.failing = false;
    expect(loaded.sizeBytes).toBe(tokenBytes);
    expect(() => claims[1]?.advance()).toThrow(code('corrupt_record'));
    expect(loaded.sizeBytes).toBe(0);
  });

  it('gives way to nobody while it is loaded', () => {
    const loaded = bench.poolInPieces({ poolBytes: contextBytes + 2 * tokenBytes });
    const claim = loaded.claim(request(a));
    claim.advance();
    expect(() => acquire(loaded, request(b))).toThrow(code('overloaded'));
    expect(() => loaded.withRoom(() => refuse())).toThrow(noMemory);
    const context = finish(claim);
    expect(bench.logitsOn(context)).toEqual(bench.expectedLogits(a));
    loaded.release(context);
    expect(use(loaded, b)).toEqual(['disk']);
  });

  it('is loaded anew when memory runs out meanwhile and others give way', () => {
    const state = { failures: 0 };
    const loaded = bench.poolInPieces({ runtime: runtimeThatFails(state) });
    use(loaded, b);
    const claims = [loaded.claim(request(a)), loaded.claim(request(a))];
    claims[0]?.advance();
    state.failures = 1;
    const [first, second] = claims.map(finish);
    expect(loaded.sizeBytes).toBe(contextBytes + 2 * tokenBytes);
    for (const context of [first, second]) {
      expect(context && bench.logitsOn(context)).toEqual(bench.expectedLogits(a));
    }
    // Nobody is left who could.
    state.failures = 1;
    expect(() => acquire(loaded, request(b))).toThrow(noMemory);
    expect(loaded.sizeBytes).toBe(contextBytes + 2 * tokenBytes);
  });

  it('is loaded anew for those, too, who had joined when memory ran out', () => {
    const state = { failures: 0 };
    const loaded = bench.poolInPieces({ runtime: runtimeThatFails(state) });
    use(loaded, b);
    const claims = [loaded.claim(request(a)), loaded.claim(request(a))];
    for (const claim of claims) claim.advance();
    state.failures = 1;
    claims[0]?.advance();
    // Nobody is left to give way.
    for (const context of claims.toReversed().map(finish)) {
      expect(bench.logitsOn(context)).toEqual(bench.expectedLogits(a));
    }
    expect(loaded.sizeBytes).toBe(contextBytes + 2 * tokenBytes);
  });

  it('has its rankings read once for all who ask at a smaller keepRatio', () => {
    let rankings = 0;
    const store = new Proxy<ContextStore>(bench.engine.store, {
      get(target, name) {
        if (name === 'readRanking') rankings++;
        return Reflect.get(target, name).bind(target);
      },
    });
    const loaded = bench.poolInPieces({ store });
    const half = request(a, { keepRatio: a.compression.keepRatio / 2 });
    const claims = [loaded.claim(half), loaded.claim(half), loaded.claim(half)];
    for (const claim of claims) claim.advance();
    expect(rankings).toBe(a.pairCounts.length);
    const [first, ...others] = claims.map(finish).map(bench.logitsOn);
    for (const other of others) expect(other).toEqual(first);
    expect(rankings).toBe(a.pairCounts.length);
  });
});

function refuse(): never {
  throw new ReadonceError('out_of_memory', 'none left');
}

/** The engine's, whose contexts find no memory for rows as often as `failures` says. */
function runtimeThatFails(state: { failures: number }): Runtime {
  return new Proxy<Runtime>(bench.engine.runtime, {
    get(target, name) {
      if (name !== 'createContext') return Reflect.get(target, name) as unknown;
      return (lengths: Uint32Array) => {
        const cache = target.createContext(lengths);
        const write = cache.write.bind(cache);
        cache.write = (...call) => (state.failures-- > 0 ? refuse() : write(...call));
        return cache;
      };
    },
  });
}

describe('loading a context beside running answers', () => {
  const open = (loaded: LoadedContexts) => {
    const { device, scheduler } = openScheduler();
    const load = async (
      asked: LoadRequest,
      { signal = new AbortController().signal, leftMs = 60_000 } = {},
    ): Promise<LoadedContext> => {
      const claim = loaded.claim(asked);
      const waits = { leftMs: () => leftMs, maxWaitMs: 60_000, signal };
      try {
        return await loadContext(scheduler, { claim, onPiece: device.piece(10), ...waits });
      } finally {
        claim.close();
      }
    };
    return { device, scheduler, load };
  };

  it('leaves a step between any two pieces', async () => {
    const { device, scheduler, load } = open(bench.poolInPieces());
    const state = { isLoading: true };
    const loading = load(request(a)).finally(() => (state.isLoading = false));
    const tail = new CountingTail();
    tail.length = 1;
    const context = { lengths: new Uint32Array(), close: () => undefined };
    while (state.isLoading) {
      await scheduler.forward({ context, tail, ids: new Int32Array(1), startPosition: 1 });
    }
    expect(bench.logitsOn(await loading)).toEqual(bench.expectedLogits(a));
    const pieces = device.done.flatMap((what, i) => (what === 'piece' ? [i] : []));
    expect(pieces.length).toBeGreaterThanOrEqual(a.pairCounts.length);
    const apart = pieces.slice(1).map((index, i) => index - (pieces[i] ?? 0));
    expect(Math.min(...apart)).toBe(2);
  });

  it('asks for a piece only when there are rows', async () => {
    const gate = new Gate();
    const loaded = bench.poolInPieces({ store: storeBehind(gate) });
    const { device, load } = open(loaded);
    const loading = load(request(a));
    await settle();
    expect(device.done).toEqual(['piece']);
    gate.open();
    expect(bench.logitsOn(await loading)).toEqual(bench.expectedLogits(a));
  });

  it('ends at once for who gives up while there are none', async () => {
    const loaded = bench.poolInPieces({ store: storeBehind(new Gate()) });
    const { load } = open(loaded);
    const cancellation = new AbortController();
    const loading = load(request(a), { signal: cancellation.signal });
    await settle();
    expect(loaded.sizeBytes).toBe(contextBytes + tokenBytes);
    cancellation.abort(new Error('gave up'));
    await expect(loading).rejects.toThrow('gave up');
    expect(loaded.sizeBytes).toBe(0);
  });

  it.each([0, 30])('waits no longer for what others load than it may: %d ms', async (leftMs) => {
    const gate = new Gate();
    const loaded = bench.poolInPieces({ store: storeBehind(gate) });
    const { load } = open(loaded);
    const first = load(request(a), { leftMs: 0 });
    await settle();
    await expect(load(request(a), { leftMs })).rejects.toThrow(code('overloaded'));
    gate.open();
    expect((await first).source).toBe('disk');
    expect(loaded.sizeBytes).toBe(contextBytes + tokenBytes);
  });

  it('loads several contexts by turns', async () => {
    const loaded = bench.poolInPieces();
    const { load } = open(loaded);
    const contexts = await Promise.all([load(request(a)), load(request(b))]);
    expect(contexts.map(bench.logitsOn)).toEqual([
      bench.expectedLogits(a),
      bench.expectedLogits(b),
    ]);
  });
});

/** The engine's store, whose rows are read but not there until a gate opens. */
function storeBehind(gate: Gate): ContextStore {
  let isOpen = false;
  void gate.opened.then(() => (isOpen = true));
  const readRows: ContextStore['readRows'] = (...call) => {
    const reading = bench.engine.store.readRows(...call);
    const take: RowReading['take'] = (onRows) => isOpen && reading.take(onRows);
    return { take, ready: () => gate.opened, close: () => reading.close() };
  };
  return new Proxy<ContextStore>(bench.engine.store, {
    get: (target, name) =>
      name === 'readRows' ? readRows : (Reflect.get(target, name).bind(target) as unknown),
  });
}
