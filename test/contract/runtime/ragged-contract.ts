import { expect, it } from 'vitest';
import { f32 } from '../../../src/compression/precision/f32.ts';
import { AssertionError } from '../../../src/core/assert.ts';
import { headCount } from '../../../src/core/kv-layout.ts';
import { firstTokens, type ContextCache, type Runtime } from '../../../src/runtime/runtime.ts';
import { at } from '../../support/naive-decoder.ts';
import type { NaiveHead } from '../../support/naive-decoder.ts';
import {
  exactPairs,
  forwardTogether,
  loadContext,
  request,
  type Requested,
} from '../../support/ragged.ts';
import { emptyRequest, expectClose, tokens, unevenContext } from './subject.ts';
import type { Subject } from './subject.ts';

/** Contexts with rows of another length in every head, the requests on them, and their tails. */
export function raggedContract(subject: () => Subject): void {
  contextRows(subject);
  severalRequests(subject);
  tails(subject);
  views(subject);
  otherSizes(subject);
}

function contextRows(subject: () => Subject): void {
  it('attends to context rows of another length in every head, none in some', () => {
    const { runtime, naive, tolerances } = subject();
    const context = unevenContext(subject());
    const ids = tokens(subject(), 9);
    const cache = loadContext(runtime, context);
    const [logits] = forwardTogether(runtime, [
      { ...request(runtime, cache), ids, startPosition: 40 },
    ]);
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
      const parts = request(runtime, loadContext(runtime, rows));
      return forwardOne(runtime, parts, tokens(subject(), 5), 40);
    };
    expectClose(run(reversed), run(context), tolerances.logits);
  });

  it('attends to a few rows that outweigh all of the tail, and the other way round', () => {
    const { runtime, naive, tolerances } = subject();
    for (const scale of [32, 2 ** -10]) {
      const context = unevenContext(subject()).map(({ keys, values }) => ({
        keys: keys.map((key) => key.map((value) => value * scale)),
        values,
      }));
      const ids = tokens(subject(), 7);
      const parts = request(runtime, loadContext(runtime, context));
      const logits = forwardOne(runtime, parts, ids, 40);
      expectClose(
        logits,
        at(naive({ ids, startPosition: 40, context }).logits, 6),
        tolerances.logits,
      );
    }
  });

  it('wants a length for every head', () => {
    const { runtime } = subject();
    const tooFew = new Uint32Array(headCount(runtime.layout) - 1);
    expect(() => runtime.createContext(tooFew)).toThrow(AssertionError);
  });
}

function severalRequests(subject: () => Subject): void {
  /** Requests on some contexts, several on some, with questions of their own in their tails. */
  const make = (contextOf: readonly number[]): readonly Requested[] => {
    const { runtime } = subject();
    const caches = contextOf.map((context) =>
      context === 0
        ? runtime.createContext(new Uint32Array(headCount(runtime.layout)))
        : loadContext(runtime, unevenContext(subject(), context)),
    );
    const opened = caches.map((cache) => cache.view(cache.lengths));
    return contextOf.map((context, i) => {
      const parts = { context: at(opened, contextOf.indexOf(context)), tail: runtime.createTail() };
      forwardOne(runtime, parts, tokens(subject(), 1 + ((i * 7) % 11), 50 + i), 40);
      return parts;
    });
  };

  // One context for all; one each; some shared, of more than any call has room for; none at all.
  it.each([
    [[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]],
    [[1, 2, 3, 0, 4]],
    [[1, 2, 1, 3, 4, 2, 5, 6, 7, 8, 9, 1, 10, 9]],
    [[0, 0]],
  ])('gives requests on contexts %j exactly what each gets alone', (contextOf) => {
    const { runtime } = subject();
    const [together, alone] = [make(contextOf), make(contextOf)];
    for (let step = 0; step < 3; step++) {
      const slot = (parts: Requested, i: number) => ({
        ...parts,
        ids: tokens(subject(), 1, 100 * i + step),
        startPosition: 60 + step,
      });
      const logits = forwardTogether(runtime, together.map(slot));
      for (const [i, parts] of alone.entries()) {
        expect(logits[i], `step ${step}, request ${i}`).toEqual(
          at(forwardTogether(runtime, [slot(parts, i)]), 0),
        );
      }
    }
    for (const { tail } of [...together, ...alone]) tail.close();
  });

  it('lets requests begin together, with questions of any length up to the limit', () => {
    const { runtime } = subject();
    const caches = [3, 4, 3].map((seed) => loadContext(runtime, unevenContext(subject(), seed)));
    const lengths = [5, 1, firstTokens, 17, 2, 63, 30];
    const slots = () =>
      lengths.map((length, i) => {
        const { context, tail } = request(runtime, at(caches, i % caches.length));
        return { context, tail, ids: tokens(subject(), length, 200 + i), startPosition: 40 + i };
      });
    const [together, alone] = [slots(), slots()];
    const first = alone.map((slot) => at(forwardTogether(runtime, [slot]), 0));
    expect(forwardTogether(runtime, together)).toEqual(first);
    const next = (parts: Requested, i: number) => ({
      ...parts,
      ids: tokens(subject(), 1, 300 + i),
      startPosition: 110,
    });
    const second = alone.map((parts, i) => at(forwardTogether(runtime, [next(parts, i)]), 0));
    expect(forwardTogether(runtime, together.map(next))).toEqual(second);
    for (const { tail } of [...together, ...alone]) tail.close();
  });

  it('lets requests join, leave, wait and come back without a change to the others', () => {
    const { runtime } = subject();
    const [together, alone] = [make([1, 2, 1, 2, 3]), make([1, 2, 1, 2, 3])];
    const running = [[0], [0, 1, 2], [2, 0, 3], [4, 3], [1, 2, 3, 4], [1, 4]];
    for (const [step, members] of running.entries()) {
      if (step === 2) at(together, 1).tail.park();
      const slot = (parts: readonly Requested[]) => (member: number) => ({
        ...at(parts, member),
        ids: tokens(subject(), 1, 100 * member + step),
        startPosition: 60 + step,
      });
      const logits = forwardTogether(runtime, members.map(slot(together)));
      for (const [i, member] of members.entries()) {
        expect(logits[i]).toEqual(at(forwardTogether(runtime, [slot(alone)(member)]), 0));
      }
      if (step === 2) at(together, 0).tail.close();
    }
    for (const { tail } of [...together, ...alone]) tail.close();
  });

  it('appends to no tail in a call that fails', () => {
    const { runtime } = subject();
    const [good, bad, alone] = [at(make([1]), 0), at(make([1]), 0), at(make([1]), 0)];
    const begun = bad.tail.length;
    const slot = { ids: tokens(subject(), 1, 5), startPosition: 60 };
    const context = { lengths: bad.context.lengths, close: () => undefined };
    const failing = [
      { ...good, ...slot },
      { ...bad, ...slot, context },
    ];
    expect(() => runtime.forward(failing)).toThrow(AssertionError);
    expect([good.tail.length, bad.tail.length]).toEqual([begun, begun]);
    const expected = forwardTogether(runtime, [{ ...alone, ...slot }]);
    expect(forwardTogether(runtime, [{ ...good, ...slot }])).toEqual(expected);
    for (const { tail } of [good, bad, alone]) tail.close();
  });

  it('refuses one tail in two slots', () => {
    const { runtime } = subject();
    const slot = { ...emptyRequest(runtime), ids: tokens(subject(), 1), startPosition: 0 };
    expect(() => runtime.forward([slot, slot])).toThrow(AssertionError);
  });
}

function tails(subject: () => Subject): void {
  it('answers as before after its tail was truncated', () => {
    const { runtime } = subject();
    const parts = request(runtime, loadContext(runtime, unevenContext(subject())));
    const first = { ...parts, ids: tokens(subject(), 6, 31), startPosition: 40 };
    const second = { ...parts, ids: tokens(subject(), 5, 32), startPosition: 46 };
    forwardTogether(runtime, [first]);
    const before = [...at(forwardTogether(runtime, [second]), 0)];
    parts.tail.truncate(6);
    forwardTogether(runtime, [{ ...second, ids: tokens(subject(), 4, 33) }]);
    parts.tail.park();
    parts.tail.truncate(6);
    expect(parts.tail.length).toBe(6);
    expect([...at(forwardTogether(runtime, [second]), 0)]).toEqual(before);
    parts.tail.truncate(0);
    forwardTogether(runtime, [first]);
    expect([...at(forwardTogether(runtime, [second]), 0)]).toEqual(before);
    expect(() => {
      parts.tail.truncate(12);
    }).toThrow(AssertionError);
  });

  it('grows with its tokens, in pieces of any size, beside others', () => {
    const { runtime, naive, tolerances } = subject();
    const context = unevenContext(subject());
    const cache = loadContext(runtime, context);
    const [long, short] = [request(runtime, cache), request(runtime, cache)];
    const ids = tokens(subject(), 200, 71);
    forwardOne(runtime, short, tokens(subject(), 3, 72), 40);
    for (let start = 0; start < ids.length; start += 50) {
      const logits = forwardOne(runtime, long, ids.subarray(start, start + 50), 40 + start);
      const seen = ids.subarray(0, start + 50);
      const expected = at(naive({ ids: seen, startPosition: 40, context }).logits, start + 49);
      expectClose(logits, expected, tolerances.logits);
    }
    expect(long.tail.sizeBytes).toBeGreaterThan(short.tail.sizeBytes);
    long.tail.close();
    const other = request(runtime, cache);
    forwardOne(runtime, other, tokens(subject(), 3, 72), 40);
    const next = tokens(subject(), 1, 73);
    expect(forwardOne(runtime, short, next, 43)).toEqual(forwardOne(runtime, other, next, 43));
  });

  it('may be closed twice', () => {
    const { runtime } = subject();
    const cache = loadContext(runtime, unevenContext(subject()));
    const { context, tail } = request(runtime, cache);
    const dense = runtime.createDense(3);
    for (const each of [tail, tail, context, context, cache, cache, dense, dense]) {
      expect(() => {
        each.close();
      }).not.toThrow();
    }
  });
}

/** Of each head a third of its rows, or half, rounded down: some none, some with many to spare. */
function someOf(lengths: Uint32Array): Uint32Array {
  return lengths.map((length, head) => Math.floor(length / (2 + (head % 2))));
}

function views(subject: () => Subject): void {
  it('shows requests fewer rows than it holds, others all of them at the same time', () => {
    const { runtime } = subject();
    const context = unevenContext(subject());
    const whole = loadContext(runtime, context);
    const fewer = someOf(whole.lengths);
    const short = loadContext(
      runtime,
      context.map(({ keys, values }, head) => ({
        keys: keys.slice(0, fewer[head]),
        values: values.slice(0, fewer[head]),
      })),
    );
    const ids = tokens(subject(), 1, 51);
    const slot = (cache: ContextCache, lengths: Uint32Array) => ({
      context: cache.view(lengths),
      tail: runtime.createTail(),
      ids,
      startPosition: 40,
    });
    const [ofShort, ofWhole] = [
      at(forwardTogether(runtime, [slot(short, fewer)]), 0),
      at(forwardTogether(runtime, [slot(whole, whole.lengths)]), 0),
    ];
    expect(ofShort).not.toEqual(ofWhole);
    const both = [slot(whole, fewer), slot(whole, whole.lengths), slot(whole, fewer)];
    expect([...at(both, 0).context.lengths]).toEqual([...fewer]);
    expect(forwardTogether(runtime, both)).toEqual([ofShort, ofWhole, ofShort]);
    expect(whole.sizeBytes).toBeGreaterThan(short.sizeBytes);
  });

  it('shows no more rows than it holds, and keeps its size while it is seen', () => {
    const { runtime } = subject();
    const cache = loadContext(runtime, unevenContext(subject()));
    const more = cache.lengths.map((length) => length + 1);
    expect(() => cache.view(more)).toThrow(AssertionError);
    const view = cache.view(cache.lengths);
    expect(() => cache.resize(cache.lengths)).toThrow(AssertionError);
    view.close();
    expect(() => cache.resize(cache.lengths)).not.toThrow();
  });
}

function otherSizes(subject: () => Subject): void {
  it('keeps its first rows when it gets shorter, and takes the others again', () => {
    const { runtime } = subject();
    const context = unevenContext(subject());
    const cache = loadContext(runtime, context);
    const run = (): Float32Array => {
      const parts = request(runtime, cache);
      const logits = forwardOne(runtime, parts, tokens(subject(), 3, 61), 40);
      parts.context.close();
      parts.tail.close();
      return logits;
    };
    const whole = cache.lengths.slice();
    const [sizeBytes, expected] = [cache.sizeBytes, run()];
    const fewer = someOf(whole);
    cache.resize(fewer);
    expect(cache.lengths).toEqual(fewer);
    expect(cache.sizeBytes).toBeLessThan(sizeBytes);
    cache.resize(whole);
    for (const [head, { keys, values }] of context.entries()) {
      const first = fewer[head] ?? 0;
      const rest = { keys: keys.slice(first), values: values.slice(first) };
      cache.write(head, first, exactPairs(rest), f32);
    }
    expect(run()).toEqual(expected);
  });

  it('may hold no rows at all', () => {
    const { runtime } = subject();
    const cache = loadContext(runtime, unevenContext(subject()));
    cache.resize(new Uint32Array(cache.lengths.length));
    expect(cache.sizeBytes).toBe(0);
    const ids = tokens(subject(), 2);
    expect(forwardOne(runtime, request(runtime, cache), ids, 0)).toEqual(
      forwardOne(runtime, emptyRequest(runtime), ids, 0),
    );
  });
}

function forwardOne(
  runtime: Runtime,
  parts: Requested,
  ids: Int32Array,
  startPosition: number,
): Float32Array {
  return at(forwardTogether(runtime, [{ ...parts, ids, startPosition }]), 0);
}
