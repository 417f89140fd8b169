import { expect, it } from 'vitest';
import { AssertionError } from '../../../src/core/assert.ts';
import { headCount } from '../../../src/core/kv-layout.ts';
import { at } from '../../support/naive-decoder.ts';
import type { NaiveHead } from '../../support/naive-decoder.ts';
import { loadRagged } from '../../support/ragged.ts';
import { emptyRagged, expectClose, tokens, unevenContext } from './subject.ts';
import type { Subject } from './subject.ts';

/** Context rows, slots and tails of ragged caches. */
export function raggedContract(subject: () => Subject): void {
  contextRows(subject);
  severalSlots(subject);
  tails(subject);
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

  it('keeps what is stored when its tail gets more room', () => {
    const { runtime, tolerances } = subject();
    const run = (grow: boolean): Float32Array => {
      const cache = loadRagged(runtime, unevenContext(subject()), grow ? 3 : 30);
      runtime.forward([{ cache, ids: tokens(subject(), 3, 41), startPosition: 40 }]);
      if (grow) cache.reserveTail(30);
      expect(cache.tailCapacity).toBeGreaterThanOrEqual(30);
      cache.reserveTail(2);
      expect(cache.tailCapacity).toBeGreaterThanOrEqual(30);
      return at(runtime.forward([{ cache, ids: tokens(subject(), 27, 42), startPosition: 43 }]), 0);
    };
    expectClose(run(true), run(false), tolerances.logits);
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
