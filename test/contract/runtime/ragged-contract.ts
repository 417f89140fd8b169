import { expect, it } from 'vitest';
import { AssertionError } from '../../../src/core/assert.ts';
import { headCount } from '../../../src/core/kv-layout.ts';
import { at } from '../../support/naive-decoder.ts';
import type { NaiveHead } from '../../support/naive-decoder.ts';
import type { RaggedCache } from '../../../src/runtime/runtime.ts';
import { loadRagged } from '../../support/ragged.ts';
import { emptyRagged, expectClose, tokens, unevenContext } from './subject.ts';
import type { Subject } from './subject.ts';

/** Context rows, slots and tails of ragged caches. */
export function raggedContract(subject: () => Subject): void {
  contextRows(subject);
  severalSlots(subject);
  tails(subject);
  fewerRows(subject);
  otherSizes(subject);
}

function contextRows(subject: () => Subject): void {
  it('attends to context rows of another length in every head, none in some', () => {
    const { runtime, naive, tolerances } = subject();
    const context = unevenContext(subject());
    const ids = tokens(subject(), 9);
    const cache = loadRagged(runtime, context, 9);
    const [logits] = runtime.forward([{ cache, ids, startPosition: 40 }]);
    const expected = at(naive({ ids, startPosition: 40, context }).logits, 8);
    expectClose(logits, expected, tolerances.logits);
    expect([...cache.lengths]).toEqual(context.map(({ keys }) => keys.length));
    expect(cache.sizeBytes).toBeGreaterThan(0);
  });

  it('does not care about the order of context rows within a head', () => {
    const { runtime, tolerances } = subject();
    const context = unevenContext(subject());
    const reversed = context.map(({ keys, values }) => ({
      keys: [...keys].reverse(),
      values: [...values].reverse(),
    }));
    const run = (rows: readonly NaiveHead[]): Float32Array => {
      const cache = loadRagged(runtime, rows, 5);
      return at(runtime.forward([{ cache, ids: tokens(subject(), 5), startPosition: 40 }]), 0);
    };
    expectClose(run(reversed), run(context), tolerances.logits);
  });

  it('wants a length for every head', () => {
    const { runtime } = subject();
    const tooFew = new Uint32Array(headCount(runtime.layout) - 1);
    expect(() => runtime.createRagged(tooFew, 4)).toThrow(AssertionError);
  });
}

function severalSlots(subject: () => Subject): void {
  it('gives each of several slots exactly what it gets alone', () => {
    const { runtime } = subject();
    const lengths = [1, 6, 3, 1];
    const slots = () =>
      lengths.map((length, i) => ({
        cache:
          i === 2
            ? emptyRagged(runtime, 8)
            : loadRagged(runtime, unevenContext(subject(), 10 + i), 8),
        ids: tokens(subject(), length, 20 + i),
        startPosition: 40 + i,
      }));
    const alone = slots().map((slot) => at(runtime.forward([slot]), 0));
    const together = runtime.forward(slots());
    expect(together).toEqual(alone);
  });

  it('steps several slots together as each alone, over several steps', () => {
    const { runtime } = subject();
    const make = () => [
      loadRagged(runtime, unevenContext(subject(), 5), 4),
      loadRagged(runtime, unevenContext(subject(), 6), 9),
    ];
    const step = (token: number, slot: number) => ({
      ids: tokens(subject(), 1, 100 * slot + token),
      startPosition: 40 + token,
    });
    const together = make();
    const alone = make();
    for (let token = 0; token < 4; token++) {
      const slots = together.map((cache, slot) => Object.assign(step(token, slot), { cache }));
      const logits = runtime.forward(slots);
      alone.forEach((cache, slot) => {
        const [single] = runtime.forward([{ cache, ...step(token, slot) }]);
        expect(logits[slot]).toEqual(single);
      });
    }
  });

  it('refuses one cache in two slots', () => {
    const { runtime } = subject();
    const cache = emptyRagged(runtime, 4);
    const slot = { cache, ids: tokens(subject(), 1), startPosition: 0 };
    expect(() => runtime.forward([slot, slot])).toThrow(AssertionError);
  });
}

function tails(subject: () => Subject): void {
  it('answers as before after its tail was truncated', () => {
    const { runtime } = subject();
    const cache = loadRagged(runtime, unevenContext(subject()), 12);
    const first = { cache, ids: tokens(subject(), 6, 31), startPosition: 40 };
    const second = { cache, ids: tokens(subject(), 5, 32), startPosition: 46 };
    runtime.forward([first]);
    const before = [...at(runtime.forward([second]), 0)];
    cache.truncateTail(6);
    runtime.forward([{ ...second, ids: tokens(subject(), 4, 33) }]);
    cache.truncateTail(6);
    expect(cache.tailLength).toBe(6);
    expect([...at(runtime.forward([second]), 0)]).toEqual(before);
    cache.truncateTail(0);
    runtime.forward([first]);
    expect([...at(runtime.forward([second]), 0)]).toEqual(before);
    expect(() => {
      cache.truncateTail(12);
    }).toThrow(AssertionError);
  });

  it('may be closed twice', () => {
    const { runtime } = subject();
    const ragged = loadRagged(runtime, unevenContext(subject()), 3);
    const dense = runtime.createDense(3);
    for (const cache of [ragged, ragged, dense, dense]) {
      expect(() => {
        cache.close();
      }).not.toThrow();
    }
  });
}

/** Of each head a third of its rows, or half, rounded down: some none, some with many to spare. */
function someOf(lengths: Uint32Array): Uint32Array {
  return lengths.map((length, head) => Math.floor(length / (2 + (head % 2))));
}

function fewerRows(subject: () => Subject): void {
  // Tails shorter and longer than the rows that are left out: 40 is more than any head has.
  it.each([1, 3, 40])('attends to fewer rows than it holds, with a tail of %d', (tailRows) => {
    const { runtime } = subject();
    const context = unevenContext(subject());
    const whole = loadRagged(runtime, context, tailRows);
    const fewer = someOf(whole.lengths);
    const short = loadRagged(
      runtime,
      context.map(({ keys, values }, head) => ({
        keys: keys.slice(0, fewer[head]),
        values: values.slice(0, fewer[head]),
      })),
      tailRows,
    );
    const run = (cache: RaggedCache): Float32Array => {
      const ids = tokens(subject(), tailRows, 51);
      const [logits = new Float32Array()] = runtime.forward([{ cache, ids, startPosition: 40 }]);
      cache.truncateTail(0);
      return logits;
    };
    const [ofWhole, ofShort] = [run(whole), run(short)];
    expect(ofShort).not.toEqual(ofWhole);
    const held = whole.heldLengths.slice();
    for (const lengths of [fewer, held, fewer, someOf(fewer), fewer, held]) {
      whole.attendTo(lengths);
      expect([...whole.lengths]).toEqual([...lengths]);
      expect([...whole.heldLengths]).toEqual([...held]);
      if (lengths === fewer) expect(run(whole)).toEqual(ofShort);
      if (lengths === held) expect(run(whole)).toEqual(ofWhole);
    }
    expect(whole.sizeBytes).toBeGreaterThan(short.sizeBytes);
  });

  it('attends to no more rows than it holds, and changes them for a new request only', () => {
    const { runtime } = subject();
    const cache = loadRagged(runtime, unevenContext(subject()), 3);
    const more = cache.lengths.map((length) => length + 1);
    expect(() => cache.attendTo(more)).toThrow(AssertionError);
    runtime.forward([{ cache, ids: tokens(subject(), 1), startPosition: 40 }]);
    expect(() => cache.attendTo(someOf(cache.lengths))).toThrow(AssertionError);
    expect(() => cache.resize({ lengths: cache.lengths, tailCapacity: 9 })).toThrow(AssertionError);
  });
}

function otherSizes(subject: () => Subject): void {
  it('keeps its first rows when it gets shorter, and takes the others again', () => {
    const { runtime } = subject();
    const context = unevenContext(subject());
    const cache = loadRagged(runtime, context, 3);
    const run = (): Float32Array => {
      const slot = { cache, ids: tokens(subject(), 3, 61), startPosition: 40 };
      const [logits = new Float32Array()] = runtime.forward([slot]);
      cache.truncateTail(0);
      return logits;
    };
    const whole = cache.lengths.slice();
    const [sizeBytes, expected] = [cache.sizeBytes, run()];
    const fewer = someOf(whole);
    cache.attendTo(someOf(fewer));
    cache.resize({ lengths: fewer, tailCapacity: 0 });
    expect([cache.lengths, cache.heldLengths]).toEqual([fewer, fewer]);
    expect(cache.sizeBytes).toBeLessThan(sizeBytes);
    expect(cache.tailCapacity).toBe(0);
    cache.resize({ lengths: whole, tailCapacity: 5 });
    expect(cache.tailCapacity).toBe(5);
    for (const [head, { keys, values }] of context.entries()) {
      const start = (fewer[head] ?? 0) * runtime.layout.headDim;
      cache.keys(head).set(keys.flat().slice(start), start);
      cache.values(head).set(values.flat().slice(start), start);
    }
    expect(run()).toEqual(expected);
  });

  it('may hold no rows at all', () => {
    const { runtime } = subject();
    const cache = loadRagged(runtime, unevenContext(subject()), 3);
    const none = new Uint32Array(cache.lengths.length);
    cache.resize({ lengths: none, tailCapacity: 0 });
    expect(cache.sizeBytes).toBe(0);
    cache.resize({ lengths: none, tailCapacity: 2 });
    const slot = { ids: tokens(subject(), 2), startPosition: 0 };
    const [logits] = runtime.forward([{ ...slot, cache }]);
    const [expected] = runtime.forward([{ ...slot, cache: emptyRagged(runtime, 2) }]);
    expect(logits).toEqual(expected);
  });
}
