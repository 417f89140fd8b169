import { assert } from '../core/assert.ts';
import type { EncodedPairs, Precision } from '../core/precision.ts';

/** Keys and values of one head in host memory, `[rows, headDim]` each. */
export interface FloatRows {
  readonly keys: Float32Array;
  readonly values: Float32Array;
  readonly headDim: number;
}

/**
 * Encodes some rows of a head, in the order of `rows`.
 * @throws ReadonceError `unsupported` (values that the precision cannot hold)
 */
export function encodePairs(
  { keys, values, headDim }: FloatRows,
  rows: Uint32Array,
  precision: Precision,
): EncodedPairs {
  const encode = (side: Float32Array): Uint8Array => {
    const picked = new Float32Array(rows.length * headDim);
    for (const [to, from] of rows.entries()) {
      const end = (from + 1) * headDim;
      assert(end <= side.length, `expected a row that is held but got ${from}`);
      picked.set(side.subarray(from * headDim, end), to * headDim);
    }
    const bytes = new Uint8Array(precision.encodedBytes(rows.length, headDim));
    precision.encode(picked, bytes, headDim);
    return bytes;
  };
  return { rows: rows.length, keys: encode(keys), values: encode(values) };
}

/** Decodes stored rows into those of a head from `firstRow` on. */
export function decodePairs(
  { keys, values, headDim }: FloatRows,
  firstRow: number,
  pairs: EncodedPairs,
  precision: Precision,
): void {
  const [start, end] = [firstRow * headDim, (firstRow + pairs.rows) * headDim];
  assert(
    firstRow >= 0 && end <= keys.length,
    `expected at most ${keys.length / headDim} rows but got ${firstRow + pairs.rows}`,
  );
  precision.decode(pairs.keys, keys.subarray(start, end), headDim);
  precision.decode(pairs.values, values.subarray(start, end), headDim);
}
