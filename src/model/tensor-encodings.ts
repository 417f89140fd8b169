import { assert, defined } from '../core/assert.ts';
import { decodeHalfInto, floatToHalf, halfToFloat } from '../core/half.ts';

/** How the values of a tensor are stored. `Q…` are GGUF's blocks of 32 values. */
export type TensorEncoding = 'F32' | 'F16' | 'BF16' | 'Q8_0' | 'Q4_0' | 'Q4_1';

interface Encoding {
  /** Values of a block, and its bytes; a row is whole blocks. */
  readonly blockValues: number;
  readonly blockBytes: number;
  /** Decodes whole blocks; `bytes` begins at a multiple of 4 in its buffer. */
  decode(bytes: Uint8Array, values: Float32Array): void;
}

/** Values of a GGUF block. */
const blockValues = 32;

function halfAt(bytes: Uint8Array, at: number): number {
  return halfToFloat((bytes[at] as number) | ((bytes[at + 1] as number) << 8));
}

/** Block: f16 scale, 32 signed bytes. */
function decodeQ8(bytes: Uint8Array, values: Float32Array): void {
  const signed = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let i = 0, at = 0; i < values.length; i += blockValues, at += 34) {
    const scale = halfAt(bytes, at);
    for (let j = 0; j < blockValues; j++) {
      values[i + j] = scale * (signed[at + 2 + j] as number);
    }
  }
}

/** 16 bytes hold 32 four-bit numbers: the first 16 in the low halves, the others in the high. */
function decodeNibbles(
  bytes: Uint8Array,
  at: number,
  levels: Float32Array,
  values: Float32Array,
  to: number,
): void {
  for (let j = 0; j < blockValues / 2; j++) {
    const pair = bytes[at + j] as number;
    values[to + j] = levels[pair & 15] as number;
    values[to + blockValues / 2 + j] = levels[pair >> 4] as number;
  }
}

/** Block: f16 scale, 16 bytes; a value is `scale · (q − 8)`. */
function decodeQ40(bytes: Uint8Array, values: Float32Array): void {
  const levels = new Float32Array(16);
  for (let i = 0, at = 0; i < values.length; i += blockValues, at += 18) {
    const scale = halfAt(bytes, at);
    for (let q = 0; q < 16; q++) levels[q] = scale * (q - 8);
    decodeNibbles(bytes, at + 2, levels, values, i);
  }
}

/** Block: f16 scale, f16 minimum, 16 bytes; a value is `scale · q + minimum`, in float32 steps. */
function decodeQ41(bytes: Uint8Array, values: Float32Array): void {
  const levels = new Float32Array(16);
  for (let i = 0, at = 0; i < values.length; i += blockValues, at += 20) {
    const scale = halfAt(bytes, at);
    const minimum = halfAt(bytes, at + 2);
    for (let q = 0; q < 16; q++) levels[q] = Math.fround(scale * q) + minimum;
    decodeNibbles(bytes, at + 4, levels, values, i);
  }
}

const encodings: Readonly<Record<TensorEncoding, Encoding>> = {
  F32: {
    blockValues: 1,
    blockBytes: 4,
    decode(bytes, values) {
      values.set(new Float32Array(bytes.buffer, bytes.byteOffset, values.length));
    },
  },
  F16: {
    blockValues: 1,
    blockBytes: 2,
    decode(bytes, values) {
      decodeHalfInto(new Uint16Array(bytes.buffer, bytes.byteOffset, values.length), values);
    },
  },
  BF16: {
    blockValues: 1,
    blockBytes: 2,
    decode(bytes, values) {
      const source = new Uint16Array(bytes.buffer, bytes.byteOffset, values.length);
      const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
      for (let i = 0; i < source.length; i++) bits[i] = (source[i] as number) << 16;
    },
  },
  Q8_0: { blockValues, blockBytes: 34, decode: decodeQ8 },
  Q4_0: { blockValues, blockBytes: 18, decode: decodeQ40 },
  Q4_1: { blockValues, blockBytes: 20, decode: decodeQ41 },
};

/**
 * Bytes of a tensor, or undefined if its rows are not whole blocks. A tensor of no dimensions has
 * one value.
 */
export function encodedBytes(
  encoding: TensorEncoding,
  shape: readonly number[],
): number | undefined {
  const { blockValues: size, blockBytes } = encodings[encoding];
  if ((shape.at(-1) ?? 1) % size !== 0) return undefined;
  return (valueCount(shape) / size) * blockBytes;
}

/** Values of a tensor. */
export function valueCount(shape: readonly number[]): number {
  return shape.reduce((product, length) => product * length, 1);
}

/** Decodes a whole tensor into `values`, whose length is its number of values. */
export function decodeTensor(
  encoding: TensorEncoding,
  bytes: Uint8Array,
  values: Float32Array,
): void {
  const { blockValues: size, blockBytes } = encodings[encoding];
  assert(bytes.byteLength * size === values.length * blockBytes, 'encoded size fits the values');
  encodings[encoding].decode(bytes, values);
}

/** Rounds values to binary16 (to nearest, ties to even) and widens them again, in place. */
export function roundToHalf(values: Float32Array): void {
  for (let i = 0; i < values.length; i++) {
    values[i] = halfToFloat(floatToHalf(values[i] as number));
  }
}

/**
 * Puts the rows of rotary projections in Hugging Face's order. GGUF stores a head's rows as pairs
 * (first half's i, second half's i); Hugging Face as the first half, then the second.
 * @param bytes rows of equal size, in any encoding
 */
export function deinterleaveRows(
  bytes: Uint8Array,
  options: { readonly rows: number; readonly heads: number },
): Uint8Array {
  const { rows, heads } = options;
  const rowBytes = bytes.byteLength / rows;
  const headRows = rows / heads;
  assert(Number.isInteger(rowBytes) && headRows % 2 === 0, 'rows are whole and pair up');
  const target = new Uint8Array(bytes.byteLength);
  for (let row = 0; row < rows; row++) {
    const inHead = row % headRows;
    const to = row - inHead + (inHead % 2) * (headRows / 2) + (inHead >> 1);
    target.set(bytes.subarray(row * rowBytes, (row + 1) * rowBytes), to * rowBytes);
  }
  return target;
}

/** First dimension of a tensor that has one. */
export function rowCount(shape: readonly number[]): number {
  return defined(shape[0], 'first dimension');
}
