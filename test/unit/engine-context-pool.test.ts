import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ContextRecord } from '../../src/core/context.ts';
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
let c: ContextRecord;
/** Bytes of one of them. */
let contextBytes: number;

beforeAll(async () => {
  bench = await LoadedBench.open();
  [a, b, c] = [await bench.put('1'), await bench.put('2'), await bench.put('3')];
  contextBytes = total(a.pairCounts) * rowBytes;
});
afterAll(() => bench.close());

describe('the pool', () => {
  it('drops the least recently used context when it is full', () => {
    const loaded = bench.pool(2 * contextBytes + tokenBytes);
    use(loaded, a, b, a, c);
    expect(loaded.sizeBytes).toBe(2 * contextBytes);
    expect(use(loaded, a, c, b)).toEqual(['host', 'host', 'disk']);
  });

  it.each([1 / 2, 1 / 4, 1 / 8])('shortens an idle context to %d of its rows', (fraction) => {
    const left = a.pairCounts.map(
      (count) => a.prefixTokens + Math.floor((count - a.prefixTokens) * fraction),
    );
    const leftBytes = total(left) * rowBytes;
    const watched = bench.watchedStore();
    const loaded = bench.pool(contextBytes + leftBytes + tokenBytes, watched.store);
    use(loaded, a, b);
    expect(loaded.sizeBytes).toBe(contextBytes + leftBytes);
    watched.rows = 0;
    const again = acquire(loaded, request(a));
    expect(again.source).toBe('disk');
    expect(watched.rows).toBe(total(a.pairCounts) - total(left));
    expect(bench.logitsOn(again)).toEqual(bench.expectedLogits(a));
  });

  it('drops an idle context that would be left with less', () => {
    const loaded = bench.pool(contextBytes + 4 * a.prefixTokens * rowBytes + tokenBytes);
    use(loaded, a, b);
    expect(loaded.sizeBytes).toBe(contextBytes);
  });

  it('leaves contexts alone that were used later, if earlier ones make room', () => {
    const left = total(a.pairCounts) / 2;
    const loaded = bench.pool(2 * contextBytes + left * rowBytes + tokenBytes);
    use(loaded, a, b, c);
    expect(use(loaded, c, b)).toEqual(['host', 'host']);
    expect(loaded.sizeBytes).toBeGreaterThan(2 * contextBytes);
  });

  it('refuses what is larger than all of it, and drops nothing for that', () => {
    const loaded = bench.pool(contextBytes + tokenBytes);
    use(loaded, a);
    expect(() => acquire(loaded, request(b, { tailTokens: 2 }))).toThrow(
      expect.objectContaining({
        code: 'out_of_memory',
        message: expect.stringContaining(`at most ${contextBytes + tokenBytes} bytes`) as string,
      }),
    );
    expect(use(loaded, a)).toEqual(['host']);
  });

  it('never drops what is in use: who finds no room shall come again', () => {
    const loaded = bench.pool(2 * contextBytes + 3 * tokenBytes);
    const held = [acquire(loaded, request(a)), acquire(loaded, request(b))];
    expect(() => acquire(loaded, request(c))).toThrow(
      expect.objectContaining({ code: 'overloaded', retryAfterSeconds: 1 }),
    );
    expect(held.map(bench.logitsOn)).toEqual([bench.expectedLogits(a), bench.expectedLogits(b)]);
    for (const context of held) loaded.release(context);
    use(loaded, c);
    expect(use(loaded, c)).toEqual(['host']);
  });

  it('counts the tails of those who use a context: another waits until there is room', async () => {
    const loaded = bench.pool(contextBytes + 3 * tokenBytes);
    const { signal } = new AbortController();
    const held = acquire(loaded, request(a, { tailTokens: 2 }));
    const again = request(a, { tailTokens: 2 });
    expect(() => acquire(loaded, again)).toThrow(expect.objectContaining({ code: 'overloaded' }));
    let waited = false;
    const room = loaded.room(loaded.givenBack, signal).then(() => {
      waited = true;
    });
    await Promise.resolve();
    expect(waited).toBe(false);
    loaded.release(held);
    await room;
    expect(acquire(loaded, again).source).toBe('host');
  });

  it('lets nobody wait for what was given back since they were refused', async () => {
    const loaded = bench.pool(2 ** 30);
    const before = loaded.givenBack;
    loaded.release(acquire(loaded, request(a)));
    await loaded.room(before, new AbortController().signal);
  });

  it('lets nobody wait for room who has given up', async () => {
    const cancellation = new AbortController();
    const room = bench.pool(2 ** 30).room(0, cancellation.signal);
    cancellation.abort(new Error('gave up'));
    await expect(room).rejects.toThrow('gave up');
  });

  it('makes room for the tail of a longer query by the others, not by its own context', () => {
    const loaded = bench.pool(2 * contextBytes + tokenBytes);
    use(loaded, a, b);
    const context = acquire(loaded, request(b, { tailTokens: 10 }));
    expect(context.source).toBe('host');
    expect(loaded.sizeBytes).toBeLessThanOrEqual(2 * contextBytes + tokenBytes);
    expect(bench.logitsOn(context)).toEqual(bench.expectedLogits(b));
  });

  it('drops a deleted context at once, or when its last query gives it back', () => {
    const loaded = bench.pool(2 ** 30);
    use(loaded, a);
    const [first, second] = [acquire(loaded, request(b)), acquire(loaded, request(b))];
    loaded.drop(a.id);
    loaded.drop(b.id);
    loaded.drop(c.id);
    expect(loaded.sizeBytes).toBe(contextBytes + 2 * tokenBytes);
    loaded.release(first);
    expect(bench.logitsOn(second)).toEqual(bench.expectedLogits(b));
    loaded.release(second);
    expect(loaded.sizeBytes).toBe(0);
  });

  it('holds nothing of a context that could not be read', () => {
    const watched = bench.watchedStore();
    watched.failing = true;
    const loaded = bench.pool(2 ** 30, watched.store);
    expect(() => acquire(loaded, request(a))).toThrow(
      expect.objectContaining({ code: 'corrupt_record' }),
    );
    expect(loaded.sizeBytes).toBe(0);
  });

  it('holds nothing once it is closed, however often', () => {
    const loaded = bench.pool(2 ** 30);
    use(loaded, a, b);
    acquire(loaded, request(c));
    loaded.close();
    loaded.close();
    expect(loaded.sizeBytes).toBe(0);
  });
});

describe('memory for what is not stored', () => {
  it('is taken from idle contexts, and given back', () => {
    const loaded = bench.pool(contextBytes + 5 * tokenBytes);
    use(loaded, a);
    const borrowed = loaded.borrow(9);
    expect(borrowed.bytes).toBe(9 * tokenBytes);
    expect(loaded.sizeBytes).toBeLessThanOrEqual(contextBytes + 5 * tokenBytes);
    expect(() => acquire(loaded, request(a))).toThrow(
      expect.objectContaining({ code: 'overloaded' }),
    );
    loaded.release(borrowed);
    expect(use(loaded, a, a)).toEqual(['disk', 'host']);
  });

  it('is refused if there is not as much, or if others hold it', () => {
    const loaded = bench.pool(contextBytes + 5 * tokenBytes);
    expect(() => loaded.borrow(2000)).toThrow(expect.objectContaining({ code: 'out_of_memory' }));
    const held = acquire(loaded, request(a));
    expect(() => loaded.borrow(5)).toThrow(expect.objectContaining({ code: 'overloaded' }));
    loaded.release(held);
    expect(() => loaded.borrow(5)).not.toThrow();
  });
});
