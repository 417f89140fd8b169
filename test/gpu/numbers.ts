import { floatToHalf, halfToFloat } from '../../src/core/half.ts';
import type { Random } from '../../src/core/random.ts';
import type { ModelType, StagedFormat } from '../../src/runtime/cuda/kernel-shapes.ts';

/** A normally distributed number. */
export function normal(random: Random): number {
  const radius = Math.sqrt(-2 * Math.log(1 - random.next()));
  return radius * Math.cos(2 * Math.PI * random.next());
}

const float = new Float32Array(1);
const floatBits = new Uint32Array(float.buffer);

/** A number's bits in 16 bits; bf16 is cut off, not rounded, which makes numbers as well. */
export function toBits(type: ModelType, value: number): number {
  if (type === 'f16') return floatToHalf(value);
  float[0] = value;
  return (floatBits[0] ?? 0) >>> 16;
}

export function fromBits(type: ModelType, bits: number): number {
  if (type === 'f16') return halfToFloat(bits);
  floatBits[0] = bits << 16;
  return float[0] ?? NaN;
}

/** Random numbers of a model's type: their bits, and what they are. */
export function randomNumbers(
  random: Random,
  type: ModelType,
  count: number,
): { readonly bits: Uint16Array; readonly values: Float64Array } {
  const bits = Uint16Array.from({ length: count }, () => toBits(type, normal(random)));
  return { bits, values: Float64Array.from(bits, (x) => fromBits(type, x)) };
}

/** A stored row: its bytes, and what they say. */
export interface StoredRow {
  readonly bytes: Uint8Array;
  readonly values: Float64Array;
}

/**
 * A random row in a stored format, such that a pool gives back the same bytes: float32 has numbers
 * of bf16, and the bytes of int8 reach 127.
 */
export function randomRow(random: Random, staged: StagedFormat, headDim: number): StoredRow {
  if (staged === 'i8') {
    const largest = floatToHalf(0.5 + 3 * random.next());
    const numbers = Int8Array.from(
      { length: headDim },
      () => Math.floor(random.next() * 255) - 127,
    );
    numbers[0] = random.next() < 0.5 ? -127 : 127;
    const bytes = new Uint8Array(2 + headDim);
    bytes.set([largest & 0xff, largest >>> 8]);
    bytes.set(new Uint8Array(numbers.buffer), 2);
    const step = halfToFloat(largest) / 127;
    return { bytes, values: Float64Array.from(numbers, (x) => x * step) };
  }
  const { bits, values } = randomNumbers(random, staged === 'f16' ? 'f16' : 'bf16', headDim);
  if (staged === 'f16') return { bytes: new Uint8Array(bits.buffer), values };
  return { bytes: new Uint8Array(Float32Array.from(values).buffer), values };
}

/** A number as a pool of f16 has it. */
export function asHalf(value: number): number {
  return halfToFloat(floatToHalf(value));
}

/** What the precision `int8` makes of a row. */
export function asInt8(row: Float64Array): Float64Array {
  const largest = row.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  return row.map((x) => (Math.round((x * 127) / largest) * largest) / 127);
}

/** What bytes under a scale for each channel make of a row. */
export function asChannelBytes(row: Float64Array, scales: Float32Array): Float64Array {
  return row.map((x, i) => {
    const scale = scales[i] ?? 0;
    return Math.max(-127, Math.min(127, Math.round(x / scale))) * scale;
  });
}

/** ‖found − expected‖ / ‖expected‖; infinite if a number is missing. */
export function relativeError(found: Float64Array, expected: Float64Array): number {
  let [difference, size] = [0, 0];
  for (const [i, x] of expected.entries()) {
    const y = found[i] ?? NaN;
    if (!Number.isFinite(y)) return Infinity;
    difference += (y - x) ** 2;
    size += x ** 2;
  }
  return Math.sqrt(difference / size);
}

/** Throws unless the error is below the tolerance; says how large it is. */
export function within(error: number, tolerance: number): string {
  if (!(error < tolerance)) {
    throw new Error(`Expected an error below ${tolerance} but got ${error}`);
  }
  return `error ${error.toExponential(1)}`;
}

/** Throws unless the bytes are the same. */
export function same(found: Uint8Array, expected: Uint8Array): void {
  if (found.length !== expected.length) {
    throw new Error(`Expected ${expected.length} bytes but got ${found.length}`);
  }
  const at = found.findIndex((x, i) => x !== expected[i]);
  if (at < 0) return;
  throw new Error(`Expected ${expected[at]} for byte ${at} but got ${found[at]}`);
}
