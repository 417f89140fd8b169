import { ReadonceError } from '../core/errors.ts';

/**
 * Zeroed memory for a cache.
 * @throws ReadonceError `out_of_memory` if there is not enough, or more than an array can hold
 */
export function allocateFloats(length: number): Float32Array {
  try {
    return new Float32Array(length);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    const bytes = length * Float32Array.BYTES_PER_ELEMENT;
    throw new ReadonceError(
      'out_of_memory',
      `Expected room for ${bytes} bytes of KV cache but there is none: use a shorter document, a ` +
        'smaller keepRatio or fewer maxTokens',
      { cause: error, details: { bytes } },
    );
  }
}
