import { expect, it } from 'vitest';
import { f32 } from '../../../src/compression/precision/f32.ts';
import { precisions } from '../../../src/compression/registry.ts';
import { AssertionError } from '../../../src/core/assert.ts';
import { headCount } from '../../../src/core/kv-layout.ts';
import type { EncodedPairs, Precision } from '../../../src/core/precision.ts';
import type { ContextCache } from '../../../src/runtime/runtime.ts';
import { at } from '../../support/naive-decoder.ts';
import {
  exactPairs,
  forwardAlone,
  forwardTogether,
  fullContext,
  loadContext,
  request,
} from '../../support/ragged.ts';
import { emptyRequest, expectClose, headsOf, prefilled, tokens, unevenContext } from './subject.ts';
import type { Subject } from './subject.ts';

/** Rows that cross the interface in their stored form, and logits that may stay on a device. */
export function storedRowsContract(subject: () => Subject): void {
  denseRows(subject);
  contextRows(subject);
  results(subject);
}

/** What rows are encoded to, or decode from, in a precision. */
function recoded(pairs: EncodedPairs, precision: Precision, headDim: number): EncodedPairs {
  const encode = (side: Uint8Array): Uint8Array => {
    const floats = new Float32Array(pairs.rows * headDim);
    f32.decode(side, floats, headDim);
    const bytes = new Uint8Array(precision.encodedBytes(pairs.rows, headDim));
    precision.encode(floats, bytes, headDim);
    return bytes;
  };
  return { rows: pairs.rows, keys: encode(pairs.keys), values: encode(pairs.values) };
}

/** What a question gets from all rows of a context. */
function answered(subject: Subject, cache: ContextCache): Float32Array {
  const { runtime } = subject;
  const parts = request(runtime, cache);
  const ids = tokens(subject, 3, 61);
  const logits = forwardAlone(runtime, parts, { ids, startPosition: 40 });
  parts.context.close();
  return logits;
}

function denseRows(subject: () => Subject): void {
  it.each([...precisions])('encodes rows of a dense cache in any order: %s', (_, precision) => {
    const { runtime } = subject();
    const { headDim } = runtime.layout;
    const cache = prefilled(runtime, tokens(subject(), 23), [23]);
    const rows = Uint32Array.of(22, 0, 1, 7, 3);
    for (const [head, { keys, values }] of headsOf(runtime, cache).entries()) {
      const picked = (side: readonly (readonly number[])[]) =>
        Array.from(rows, (row) => at(side, row));
      const exact = exactPairs({ keys: picked(keys), values: picked(values) });
      expect(cache.pairs(head, rows, precision)).toEqual(recoded(exact, precision, headDim));
    }
    const none = cache.pairs(0, new Uint32Array(0), precision);
    expect([none.rows, none.keys.length, none.values.length]).toEqual([0, 0, 0]);
  });

  it('encodes no row that a dense cache does not hold', () => {
    const { runtime } = subject();
    const cache = prefilled(runtime, tokens(subject(), 9), [9]);
    cache.truncate(6);
    expect(() => cache.pairs(0, Uint32Array.of(0, 6), f32)).toThrow(AssertionError);
  });

  it('has the keys that it encodes', () => {
    const { runtime } = subject();
    const cache = prefilled(runtime, tokens(subject(), 12), [12]);
    for (const [head, { keys }] of headsOf(runtime, cache).entries()) {
      expect([...cache.keys(head, 5, 9)]).toEqual(keys.slice(5, 9).flat());
    }
  });

  it('makes a context of all its rows, and is closed', () => {
    const { runtime } = subject();
    const cache = prefilled(runtime, tokens(subject(), 18), [18]);
    const expected = answered(subject(), fullContext(runtime, cache));
    const context = runtime.contextOf(cache);
    expect([...context.lengths]).toEqual(Array(headCount(runtime.layout)).fill(18));
    expect(answered(subject(), context)).toEqual(expected);
    cache.close();
    // Its memory is not given to another.
    prefilled(runtime, tokens(subject(), 18, 5), [18]);
    expect(answered(subject(), context)).toEqual(expected);
    context.close();
  });
}

function contextRows(subject: () => Subject): void {
  it.each([...precisions])('decodes what is written to a context: %s', (_, precision) => {
    const { runtime } = subject();
    const { headDim } = runtime.layout;
    const heads = unevenContext(subject()).map((rows) =>
      recoded(exactPairs(rows), precision, headDim),
    );
    const whole = runtime.createContext(Uint32Array.from(heads, ({ rows }) => rows));
    const inPieces = runtime.createContext(whole.lengths);
    for (const [head, pairs] of heads.entries()) {
      whole.write(head, 0, pairs, precision);
      for (let row = 0; row < pairs.rows; row += 5) {
        const piece = cutOut(pairs, { from: row, to: row + 5 }, precision.encodedBytes(1, headDim));
        inPieces.write(head, row, piece, precision);
        piece.keys.fill(255);
        piece.values.fill(255);
      }
    }
    const expected = answered(subject(), whole);
    expect(answered(subject(), inPieces)).toEqual(expected);
    // Rows of `unevenContext` are halves up to 2: only int8 changes them, by up to 2/254, and
    // logits, which are up to about 10, by more. Seen: 0.06.
    const unrounded = answered(subject(), loadContext(runtime, unevenContext(subject())));
    if (precision.name === 'int8') expectClose(expected, unrounded, 0.5);
    else expect(expected).toEqual(unrounded);
  });

  it('writes no row that a context does not have', () => {
    const { runtime } = subject();
    const lengths = new Uint32Array(headCount(runtime.layout)).fill(3);
    const cache = runtime.createContext(lengths);
    const row = Array.from({ length: runtime.layout.headDim }, () => 1);
    const pairs = exactPairs({ keys: [row, row], values: [row, row] });
    expect(() => cache.write(0, 2, pairs, f32)).toThrow(AssertionError);
    expect(() => cache.write(lengths.length, 0, pairs, f32)).toThrow(AssertionError);
  });

  it('takes the rows of another context, which is in use, and some beside them', () => {
    const { runtime } = subject();
    const context = unevenContext(subject());
    const [whole, fewer] = [
      loadContext(runtime, context),
      loadContext(
        runtime,
        context.map(({ keys, values }, head) => ({
          keys: keys.slice(0, keys.length - (head % 3)),
          values: values.slice(0, keys.length - (head % 3)),
        })),
      ),
    ];
    const before = answered(subject(), fewer);
    const view = fewer.view(fewer.lengths);
    const cache = runtime.createContext(whole.lengths);
    cache.copyFrom(fewer);
    for (const [head, { keys, values }] of context.entries()) {
      const first = at([...fewer.lengths], head);
      const rest = { keys: keys.slice(first), values: values.slice(first) };
      cache.write(head, first, exactPairs(rest), f32);
    }
    expect(answered(subject(), cache)).toEqual(answered(subject(), whole));
    view.close();
    expect(answered(subject(), fewer)).toEqual(before);
  });

  it('takes as many bytes as the runtime says, or more', () => {
    const { runtime } = subject();
    const cache = loadContext(runtime, unevenContext(subject()));
    const rows = cache.lengths.reduce((sum, length) => sum + length, 0);
    expect(runtime.rowBytes).toBeGreaterThan(0);
    expect(cache.sizeBytes).toBeGreaterThanOrEqual(rows * runtime.rowBytes);
    expect(runtime.defaultPoolBytes()).toBeGreaterThan(0);
    expect(runtime.sliceTokens).toBeGreaterThan(0);
  });
}

function results(subject: () => Subject): void {
  it('knows the likeliest token, and keeps its logits during the next call', () => {
    const { runtime } = subject();
    const slots = () =>
      [1, 4, 9].map((length) => {
        const { context, tail } = emptyRequest(runtime);
        return { context, tail, ids: tokens(subject(), length, length), startPosition: 0 };
      });
    const logits = runtime.forward(slots());
    const ids = tokens(subject(), 6, 77);
    const [next] = runtime.forward([{ ...emptyRequest(runtime), ids, startPosition: 0 }]);
    const values = logits.map((each) => each.values());
    for (const [i, each] of logits.entries()) {
      expect(each.argmax()).toBe(at(values, i).indexOf(Math.max(...at(values, i))));
    }
    expect(next?.argmax()).toBe(next?.values().indexOf(Math.max(...next.values())));
    expect(forwardTogether(runtime, slots())).toEqual(values);
  });
}

/** Some rows in memory of their own, which is not aligned. */
function cutOut(
  pairs: EncodedPairs,
  { from, to }: { readonly from: number; readonly to: number },
  rowBytes: number,
): EncodedPairs {
  const end = Math.min(to, pairs.rows);
  const copy = (side: Uint8Array): Uint8Array => {
    const bytes = new Uint8Array(1 + (end - from) * rowBytes).subarray(1);
    bytes.set(side.subarray(from * rowBytes, end * rowBytes));
    return bytes;
  };
  return { rows: end - from, keys: copy(pairs.keys), values: copy(pairs.values) };
}
