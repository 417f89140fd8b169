import { assert } from '../../core/assert.ts';
import type { Precision } from '../../core/precision.ts';

/** Both sides of an encoding, whichever of them is being written. */
export interface EncodedShape {
  /** Encoded rows. */
  readonly encoded: Uint8Array;
  /** The same rows as numbers, `[rows, headDim]`. */
  readonly values: Float32Array;
  readonly headDim: number;
}

/** Checks that the two sides of an encoding have the lengths that belong together. */
export function assertEncodedShape(precision: Precision, shape: EncodedShape): void {
  const { encoded, values, headDim } = shape;
  const rows = values.length / headDim;
  assert(Number.isInteger(rows), `expected rows of ${headDim} elements but got ${values.length}`);
  const expected = precision.encodedBytes(rows, headDim);
  assert(encoded.length === expected, `expected ${expected} bytes but got ${encoded.length}`);
}
