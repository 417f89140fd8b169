import { halfToFloat } from '../../core/half.ts';
import type { Precision } from '../../core/precision.ts';
import { assertEncodedShape } from './encoded-shape.ts';
import { encodeFiniteHalf } from './finite-half.ts';

/** Largest magnitude of an element: −128 is left out, so that both signs round alike. */
const largestStep = 127;

/** A row begins with its largest magnitude, binary16, little-endian. */
const largestBytes = 2;

/**
 * Symmetric, a scale for each row (one pair's key, or its value): values are rounded to binary16,
 * then to 127ths of the largest magnitude M of their row, halves up. A row is M in binary16, which
 * holds it exactly, and a signed byte an element, so that any number of rows is a prefix. The error
 * is at most M/254, and binary16's.
 *
 * Rounding to binary16 first makes a stored f16 context as good a source as the model's own float32
 * values: both give the same bytes.
 */
export const int8: Precision = {
  name: 'int8',
  description: 'Signed 8-bit integers, 1 byte an element and 2 for the scale of each row.',
  exactFrom: ['f32', 'f16'],
  encodedBytes: (rows, headDim) => rows * (largestBytes + headDim),
  /** @throws ReadonceError `unsupported` for values that binary16 cannot hold (±65,504). */
  encode(source, target, headDim) {
    assertEncodedShape(int8, { encoded: target, values: source, headDim });
    const halves = new Uint16Array(source.length);
    encodeFiniteHalf(source, halves, 'int8');
    const steps = signed(target);
    let at = 0;
    for (let start = 0; start < halves.length; start += headDim) {
      const row = halves.subarray(start, start + headDim);
      const largest = largestMagnitude(row);
      target[at++] = largest & 0xff;
      target[at++] = largest >>> 8;
      const scale = largest === 0 ? 0 : largestStep / halfToFloat(largest);
      for (const half of row) steps[at++] = Math.round(halfToFloat(half) * scale);
    }
  },
  decode(source, target, headDim) {
    assertEncodedShape(int8, { encoded: source, values: target, headDim });
    const steps = signed(source);
    let at = 0;
    for (let start = 0; start < target.length; start += headDim) {
      const largest = (source[at++] as number) | ((source[at++] as number) << 8);
      const step = halfToFloat(largest) / largestStep;
      for (let i = start; i < start + headDim; i++) target[i] = (steps[at++] as number) * step;
    }
  },
};

/** Bits of the largest magnitude: those of binary16, without the sign, are in order of size. */
function largestMagnitude(row: Uint16Array): number {
  let largest = 0;
  for (const half of row) largest = Math.max(largest, half & 0x7fff);
  return largest;
}

function signed(bytes: Uint8Array): Int8Array {
  return new Int8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
