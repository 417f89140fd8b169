import { expect, it } from 'vitest';
import { AssertionError } from '../../../src/core/assert.ts';
import { headCount } from '../../../src/core/kv-layout.ts';
import { runPieces } from '../../../src/runtime/run-pieces.ts';
import { at } from '../../support/naive-decoder.ts';
import { forwardTogether, loadContext, request } from '../../support/ragged.ts';
import { expectClose, headsOf, prefilled, tokens } from './subject.ts';
import type { Subject } from './subject.ts';

/** Prefill and the pairs it leaves. */
export function denseContract(subject: () => Subject): void {
  it('prefills the pairs of causal attention in any chunking', () => {
    const { runtime, naive, tolerances } = subject();
    const ids = tokens(subject(), 33);
    const expected = naive({ ids, startPosition: 0 });
    for (const sizes of [[33], [1, 31, 1], [16, 17], Array.from(ids, () => 1)]) {
      const cache = prefilled(runtime, ids, sizes);
      expect(cache.length).toBe(33);
      for (let head = 0; head < headCount(runtime.layout); head++) {
        expectClose(cache.keys(head, 0, 33), at(expected.keys, head).flat(), tolerances.rows);
      }
      headsOf(runtime, cache).forEach(({ keys, values }, head) => {
        expectClose(keys.flat(), at(expected.keys, head).flat(), tolerances.rows);
        expectClose(values.flat(), at(expected.values, head).flat(), tolerances.rows);
      });
    }
  });

  it('gives the logits of dense attention when a context holds all its rows', () => {
    const { runtime, naive, tolerances } = subject();
    const document = tokens(subject(), 30, 51);
    const query = tokens(subject(), 7, 52);
    const expected = at(naive({ ids: [...document, ...query], startPosition: 0 }).logits, 36);
    for (const sizes of [[30], [11, 19], [1, 28, 1]]) {
      const context = headsOf(runtime, prefilled(runtime, document, sizes));
      const parts = request(runtime, loadContext(runtime, context));
      const [logits] = forwardTogether(runtime, [{ ...parts, ids: query, startPosition: 30 }]);
      expectClose(logits, expected, tolerances.logits);
    }
  });

  it('forgets truncated rows', () => {
    const { runtime } = subject();
    const ids = tokens(subject(), 20);
    const cache = prefilled(runtime, ids, [20]);
    const before = headsOf(runtime, cache);
    runPieces(runtime.prefill(cache, tokens(subject(), 10, 61)));
    cache.truncate(12);
    expect(cache.length).toBe(12);
    runPieces(runtime.prefill(cache, ids.subarray(12)));
    const after = headsOf(runtime, cache);
    before.forEach(({ keys, values }, head) => {
      expectClose(at(after, head).keys.flat(), keys.flat(), subject().tolerances.rows);
      expectClose(at(after, head).values.flat(), values.flat(), subject().tolerances.rows);
    });
  });

  it('refuses more tokens than it has rows for, and stays as it was', () => {
    const { runtime } = subject();
    const cache = runtime.createDense(10);
    runPieces(runtime.prefill(cache, tokens(subject(), 8)));
    expect(() => {
      runPieces(runtime.prefill(cache, tokens(subject(), 3)));
    }).toThrow(AssertionError);
    expect(cache.length).toBe(8);
    runPieces(runtime.prefill(cache, tokens(subject(), 2)));
    expect(cache.length).toBe(10);
  });
}
