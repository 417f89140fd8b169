import { decodeHalfInto } from '../../core/half.ts';
import type { Precision } from '../../core/precision.ts';
import { assertEncodedShape } from './encoded-shape.ts';
import { encodeFiniteHalf } from './finite-half.ts';

const elementBytes = Uint16Array.BYTES_PER_ELEMENT;

/**
 * IEEE 754 binary16, rounded to nearest even: the precision that models compute their caches in, so
 * the relative error is at most 2⁻¹¹ (absolute 2⁻²⁵ below 2⁻¹⁴). About 5 ns an element to encode, 1
 * to decode. Neither side needs to be aligned; aligned ones are not copied.
 */
export const f16: Precision = {
  name: 'f16',
  description: 'Half precision, 2 bytes an element.',
  exactFrom: ['f32'],
  encodedBytes: (rows, headDim) => rows * headDim * elementBytes,
  /** @throws ReadonceError `unsupported` for values that binary16 cannot hold (±65,504). */
  encode(source, target, headDim) {
    assertEncodedShape(f16, { encoded: target, values: source, headDim });
    const aligned = target.byteOffset % elementBytes === 0;
    const halves = aligned ? asHalves(target) : new Uint16Array(source.length);
    encodeFiniteHalf(source, halves, 'f16');
    if (!aligned) target.set(new Uint8Array(halves.buffer));
  },
  decode(source, target, headDim) {
    assertEncodedShape(f16, { encoded: source, values: target, headDim });
    const aligned = source.byteOffset % elementBytes === 0;
    // Not `slice`, which does not copy if the bytes are a Buffer, as the store's are.
    decodeHalfInto(asHalves(aligned ? source : new Uint8Array(source)), target);
  },
};

function asHalves(bytes: Uint8Array): Uint16Array {
  return new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / elementBytes);
}
