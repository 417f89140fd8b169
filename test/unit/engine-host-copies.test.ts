import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ContextRecord } from '../../src/core/context.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import { LoadedContexts } from '../../src/engine/loaded-contexts.ts';
import type { ContextCache, HostCopy, HostTier, Runtime } from '../../src/runtime/runtime.ts';
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

beforeAll(async () => {
  bench = await LoadedBench.open();
  [a, b] = [await bench.put('1'), await bench.put('2')];
  contextBytes = total(a.pairCounts) * rowBytes;
});
afterAll(() => bench.close());

/** Copies are contexts of the runtime itself, which are counted. */
class CountingTier implements HostTier {
  readonly poolBytes: number;
  readonly done: string[] = [];
  open = 0;
  error: Error | undefined;
  readonly #runtime: Runtime;
  readonly #caches = new Map<HostCopy, ContextCache>();

  constructor(runtime: Runtime, poolBytes: number) {
    this.#runtime = runtime;
    this.poolBytes = poolBytes;
  }

  copyBytes(lengths: Uint32Array): number {
    return lengths.reduce((sum, length) => sum + length, 0) * rowBytes;
  }

  copy(context: ContextCache): HostCopy {
    if (this.error !== undefined) throw this.error;
    this.done.push('copy');
    const cache = this.#runtime.createContext(context.lengths);
    cache.copyFrom(context);
    this.open++;
    const copy: HostCopy = {
      lengths: context.lengths.slice(),
      sizeBytes: this.copyBytes(context.lengths),
      covering: (lengths) => lengths,
      close: () => {
        this.open--;
        cache.close();
      },
    };
    this.#caches.set(copy, cache);
    return copy;
  }

  restore(copy: HostCopy, lengths = copy.lengths): ContextCache {
    this.done.push('restore');
    const context = this.#runtime.createContext(copy.lengths);
    context.copyFrom(this.#caches.get(copy) as ContextCache);
    context.resize(lengths);
    return context;
  }
}

/** A pool with room for one context and a tail, and copies of `copies` contexts. */
function open(copies: number) {
  const { runtime, store } = bench.engine;
  const tier = new CountingTier(runtime, copies * contextBytes);
  const withTier = new Proxy<Runtime>(runtime, {
    get: (target, name) => {
      if (name === 'hostTier') return tier;
      const value = Reflect.get(target, name) as unknown;
      return typeof value === 'function' ? (value.bind(target) as unknown) : value;
    },
  });
  const poolBytes = contextBytes + tokenBytes;
  return { tier, loaded: new LoadedContexts({ runtime: withTier, store, poolBytes }) };
}

describe('copies in host memory', () => {
  it('bring a context back that gave way, with the same rows', () => {
    const { tier, loaded } = open(2);
    expect(use(loaded, a, b)).toEqual(['disk', 'disk']);
    const again = acquire(loaded, request(a));
    expect(again.source).toBe('host');
    expect(bench.logitsOn(again)).toEqual(bench.expectedLogits(a));
    loaded.release(again);
    expect(tier.done).toEqual(['copy', 'copy', 'restore']);
    // A copy stays: the next time there is nothing to copy.
    expect(use(loaded, b)).toEqual(['host']);
    expect(tier.done).toEqual(['copy', 'copy', 'restore', 'restore']);
    loaded.close();
    expect(tier.open).toBe(0);
  });

  it('bring back the rows that are asked for, and the rest when it is', () => {
    const { tier, loaded } = open(2);
    use(loaded, a, b);
    const keepRatio = a.compression.keepRatio / 4;
    const small = acquire(loaded, request(a, { keepRatio }));
    expect(small.source).toBe('host');
    expect(bench.logitsOn(small)).toEqual(bench.expectedLogits(a, keepRatio));
    loaded.release(small);
    // Half of b could stay.
    expect(loaded.sizeBytes).toBeLessThan(contextBytes);
    expect(loaded.sizeBytes).toBeGreaterThan(contextBytes / 2);
    expect(use(loaded, b)).toEqual(['host']);
    expect(use(loaded, a)).toEqual(['host']);
    expect(tier.done.filter((each) => each === 'copy')).toHaveLength(2);
    loaded.close();
  });

  it('leave when there is no room, the least recently used first', () => {
    const { tier, loaded } = open(1);
    use(loaded, a, b);
    expect(tier.open).toBe(1);
    // The copy that is needed stays while its context comes back: b leaves no copy.
    expect(use(loaded, a, b)).toEqual(['host', 'disk']);
    loaded.close();
    expect(tier.open).toBe(0);
  });

  it('are not made of what is larger than their room', () => {
    const { tier, loaded } = open(0.5);
    expect(use(loaded, a, b, a)).toEqual(['disk', 'disk', 'disk']);
    expect(tier.done).toEqual([]);
    loaded.close();
  });

  it('are forgotten with a deleted context', () => {
    const { tier, loaded } = open(2);
    use(loaded, a, b);
    loaded.drop(a.id);
    expect(tier.open).toBe(0);
    expect(use(loaded, a)).toEqual(['disk']);
    loaded.close();
  });

  it('are not taken for a context that was made again', () => {
    const { loaded } = open(2);
    use(loaded, a, b);
    const later = { ...a, createdAtMs: a.createdAtMs + 1 };
    // The store still has the earlier one.
    expect(() => acquire(loaded, request(later))).toThrow(ReadonceError);
    loaded.close();
  });

  it('are done without where there is no memory for them', () => {
    const { tier, loaded } = open(2);
    tier.error = new ReadonceError('out_of_memory', 'none left');
    expect(use(loaded, a, b, a)).toEqual(['disk', 'disk', 'disk']);
    loaded.close();
  });
});
