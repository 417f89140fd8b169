import type { RopeTables } from '../../model/rope.ts';
import type { Linear } from './weights.ts';

/** The building blocks of the decoder, in float64, on row-major arrays. */

/** The scalar product of `length` elements of each array, from the given offsets on. */
export function dot(
  a: Float64Array,
  aStart: number,
  b: Float64Array,
  bStart: number,
  length: number,
): number {
  let sum = 0;
  for (let i = 0; i < length; i++) sum += (a[aStart + i] as number) * (b[bStart + i] as number);
  return sum;
}

/** Applies the layer to each row: `[rows, inputs]` → `[rows, outputs]`. */
export function applyLinear(layer: Linear, input: Float64Array): Float64Array {
  const { inputs, outputs, weight, bias } = layer;
  const rows = input.length / inputs;
  const result = new Float64Array(rows * outputs);
  // Outputs outside: a weight row stays in the processor's cache while all tokens use it.
  for (let output = 0; output < outputs; output++) {
    const shift = bias === null ? 0 : (bias[output] as number);
    for (let row = 0; row < rows; row++) {
      result[row * outputs + output] =
        dot(input, row * inputs, weight, output * inputs, inputs) + shift;
    }
  }
  return result;
}

/** RMSNorm (arXiv 1910.07467): each row divided by its root mean square, times the weight. */
export function rmsNorm(input: Float64Array, weight: Float64Array, epsilon: number): Float64Array {
  const size = weight.length;
  const result = new Float64Array(input.length);
  for (let start = 0; start < input.length; start += size) {
    const meanSquare = dot(input, start, input, start, size) / size;
    const scale = 1 / Math.sqrt(meanSquare + epsilon);
    for (let i = 0; i < size; i++) {
      result[start + i] = (input[start + i] as number) * scale * (weight[i] as number);
    }
  }
  return result;
}

/**
 * Rotates `[tokens, heads, headDim]` in place, the first token being at `startPosition`. Element i
 * is paired with element i + headDim/2, as in Hugging Face checkpoints.
 */
export function rotate(
  heads: Float64Array,
  rope: RopeTables,
  shape: { readonly width: number; readonly headDim: number; readonly startPosition: number },
): void {
  const half = shape.headDim / 2;
  for (let start = 0; start < heads.length; start += shape.headDim) {
    const position = shape.startPosition + Math.floor(start / shape.width);
    for (let i = 0; i < half; i++) {
      const cos = rope.cos[position * half + i] as number;
      const sin = rope.sin[position * half + i] as number;
      const first = heads[start + i] as number;
      const second = heads[start + half + i] as number;
      heads[start + i] = first * cos - second * sin;
      heads[start + half + i] = second * cos + first * sin;
    }
  }
}

/** Turns `logits[0, length)` into probabilities, in place. */
export function softmax(logits: Float64Array, length: number): void {
  let largest = -Infinity;
  for (let i = 0; i < length; i++) largest = Math.max(largest, logits[i] as number);
  let sum = 0;
  for (let i = 0; i < length; i++) {
    const weight = Math.exp((logits[i] as number) - largest);
    logits[i] = weight;
    sum += weight;
  }
  for (let i = 0; i < length; i++) logits[i] = (logits[i] as number) / sum;
}

/** SwiGLU (arXiv 2002.05202): silu(gate) · up, element by element. */
export function swiGlu(gate: Float64Array, up: Float64Array): Float64Array {
  return gate.map((value, i) => (value / (1 + Math.exp(-value))) * (up[i] as number));
}

/** Adds `delta` to `target`, in place. */
export function addInPlace(target: Float64Array, delta: Float64Array): void {
  for (let i = 0; i < target.length; i++) target[i] = (target[i] as number) + (delta[i] as number);
}
