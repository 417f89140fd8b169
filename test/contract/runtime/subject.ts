import { expect } from 'vitest';
import { f32 } from '../../../src/compression/precision/f32.ts';
import { headCount, type KvLayout } from '../../../src/core/kv-layout.ts';
import { createRandom } from '../../../src/core/random.ts';
import { runPieces } from '../../../src/runtime/run-pieces.ts';
import type { DenseCache, Runtime } from '../../../src/runtime/runtime.ts';
import { at } from '../../support/naive-decoder.ts';
import type { naiveDecoder, NaiveHead } from '../../support/naive-decoder.ts';
import { request, type Requested } from '../../support/ragged.ts';
import type { TinyModel } from '../../support/tiny-model.ts';

/** Largest absolute differences that a runtime may show against an exact computation. */
export interface RuntimeTolerances {
  /** Of logits, which are up to about 10 in the suite's models. */
  readonly logits: number;
  /** Of keys and values, up to about 10. */
  readonly rows: number;
  /** Of scores, which lie in [0, 1]. */
  readonly scores: number;
}

/** A runtime under test, its model and its oracle. */
export interface Subject {
  readonly model: TinyModel;
  readonly runtime: Runtime;
  readonly naive: ReturnType<typeof naiveDecoder>;
  readonly tolerances: RuntimeTolerances;
}

/** Reproducible token ids; another `seed` gives other tokens. */
export function tokens({ model }: Subject, count: number, seed = 0): Int32Array {
  const random = createRandom(seed);
  return Int32Array.from({ length: count }, () => random.nextUint32() % model.config.vocabSize);
}

/**
 * Random rows that binary16 holds exactly, too; the lengths include 0 and differ between heads.
 */
export function unevenContext({ runtime }: Subject, seed = 9): readonly NaiveHead[] {
  const random = createRandom(seed);
  const { headDim } = runtime.layout;
  const rows = (count: number) =>
    Array.from({ length: count }, () =>
      Array.from({ length: headDim }, () => Math.round(256 * (4 * random.next() - 2)) / 256),
    );
  return Array.from({ length: headCount(runtime.layout) }, (_, head) => {
    const count = (head * 13) % 37;
    return { keys: rows(count), values: rows(count) };
  });
}

/** What a request without a context runs on. */
export function emptyRequest(runtime: Runtime): Requested {
  return request(runtime, runtime.createContext(new Uint32Array(headCount(runtime.layout))));
}

export function prefilled(runtime: Runtime, ids: Int32Array, sizes: readonly number[]): DenseCache {
  const cache = runtime.createDense(ids.length + 10);
  for (const piece of cut(ids, sizes)) runPieces(runtime.prefill(cache, piece));
  return cache;
}

/** All rows of a dense cache, copied. */
export function headsOf({ layout }: Runtime, cache: DenseCache): readonly NaiveHead[] {
  const rows = Uint32Array.from({ length: cache.length }, (_, row) => row);
  return Array.from({ length: headCount(layout) }, (_, head) => {
    const { keys, values } = cache.pairs(head, rows, f32);
    return { keys: decoded(keys, layout), values: decoded(values, layout) };
  });
}

/** Rows that were encoded as `f32`. */
function decoded(encoded: Uint8Array, { headDim }: KvLayout): number[][] {
  const floats = new Float32Array(encoded.byteLength / Float32Array.BYTES_PER_ELEMENT);
  f32.decode(encoded, floats, headDim);
  return Array.from({ length: floats.length / headDim }, (_, row) => [
    ...floats.subarray(row * headDim, (row + 1) * headDim),
  ]);
}

export function cut(ids: Int32Array, sizes: readonly number[]): readonly Int32Array[] {
  let start = 0;
  return sizes.map((size) => {
    start += size;
    return ids.slice(start - size, start);
  });
}

export function expectClose(
  actual: ArrayLike<number> | undefined,
  expected: ArrayLike<number>,
  tolerance: number,
): void {
  expect(actual?.length).toBe(expected.length);
  const differences = Array.from(expected, (value, i) => Math.abs(at(actual, i) - value));
  // A NaN anywhere makes the maximum NaN, which is not less than anything.
  expect(Math.max(...differences)).toBeLessThanOrEqual(tolerance);
}
