/** A stored element type: how float32 keys and values become bytes, and back. */
export interface Precision {
  /** The word of the HTTP contract. */
  readonly name: string;
  readonly description: string;
  /**
   * Finer precisions whose decoded values encode to the very bytes that the original values would:
   * a context of this precision may be derived from a stored one of those.
   */
  readonly exactFrom: readonly string[];
  /** Bytes of `rows` keys (or values) of `headDim` elements, quantisation parameters included. */
  encodedBytes(rows: number, headDim: number): number;
  /** Encodes `source` (`[rows, headDim]`) into `target` (`encodedBytes` long), little-endian. */
  encode(source: Float32Array, target: Uint8Array, headDim: number): void;
  /** Decodes `source` into `target` (`[rows, headDim]`). */
  decode(source: Uint8Array, target: Float32Array, headDim: number): void;
}

/** Some pairs of one head as they are stored: each side is `encodedBytes` of a precision long. */
export interface EncodedPairs {
  readonly rows: number;
  readonly keys: Uint8Array;
  readonly values: Uint8Array;
}
