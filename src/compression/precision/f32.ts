import type { Precision } from '../../core/precision.ts';
import { assertEncodedShape } from './encoded-shape.ts';

const elementBytes = Float32Array.BYTES_PER_ELEMENT;

/**
 * IEEE 754 binary32, exact: what the runtime computes, byte for byte. For tests, and to tell the
 * error of eviction from that of rounding. Copies bytes, so neither side needs to be aligned.
 */
export const f32: Precision = {
  name: 'f32',
  description: 'Single precision, exact, 4 bytes an element; for comparison.',
  exactFrom: [],
  encodedBytes: (rows, headDim) => rows * headDim * elementBytes,
  encode(source, target, headDim) {
    assertEncodedShape(f32, { encoded: target, values: source, headDim });
    target.set(asBytes(source));
  },
  decode(source, target, headDim) {
    assertEncodedShape(f32, { encoded: source, values: target, headDim });
    asBytes(target).set(source);
  },
};

function asBytes(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
