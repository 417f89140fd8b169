import { ReadonceError } from '../../core/errors.ts';
import { encodeHalf } from '../../core/half.ts';

/**
 * Rounds `source` to binary16 in `target` (same length).
 * @param precision the name a refusal gives
 * @throws ReadonceError `unsupported` for values that binary16 cannot hold (±65,504).
 */
export function encodeFiniteHalf(
  source: Float32Array,
  target: Uint16Array,
  precision: string,
): void {
  encodeHalf(source, target);
  if (!holdsInfinity(target)) return;
  throw new ReadonceError(
    'unsupported',
    `Expected keys and values within ±65504 for precision "${precision}" but got another. ` +
      'Use precision "f32" with this model.',
  );
}

/** Whether any half is infinite or not a number. */
function holdsInfinity(halves: Uint16Array): boolean {
  let largest = 0;
  for (let i = 0; i < halves.length; i++) {
    const magnitude = (halves[i] as number) & 0x7fff;
    if (magnitude > largest) largest = magnitude;
  }
  return largest >= 0x7c00;
}
