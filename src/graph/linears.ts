import { basename } from 'node:path';
import { assert, defined } from '../core/assert.ts';
import type { FourBitLinear, TensorRef } from '../model/checkpoint.ts';
import { fourBitBlock } from '../model/four-bit.ts';
import { fourBitName } from '../model/four-bit-weights.ts';
import type { OnnxModel } from './onnx-model.ts';

/** How a graph multiplies by the linear weights of a layer. */
export interface Linears {
  /**
   * Products of `input`, `[1, N, inputs]`, with each of the matrices of these names (Hugging Face's
   * without `.weight`), `[1, N, outputs]`.
   */
  multiply(input: string, names: readonly string[]): readonly string[];
}

/** By the float32 values, as they lie. */
export class Float32Linears implements Linears {
  readonly #model: OnnxModel;
  readonly #tensors: ReadonlyMap<string, TensorRef>;

  constructor(model: OnnxModel, tensors: ReadonlyMap<string, TensorRef>) {
    this.#model = model;
    this.#tensors = tensors;
  }

  multiply(input: string, names: readonly string[]): readonly string[] {
    return names.map((name) => {
      const tensor = defined(this.#tensors.get(`${name}.weight`), `tensor ${name}`);
      return product(this.#model, input, tensor);
    });
  }
}

/** `input` times the transpose of a float32 matrix `[outputs, inputs]`. */
export function product(model: OnnxModel, input: string, matrix: TensorRef): string {
  return model.node('FusedMatMul', [input, model.weight(matrix, basename(matrix.file))], {
    microsoft: true,
    attributes: { transB: 1 },
  });
}

/**
 * By four-bit blocks, where there are some (docs/adr/0008-four-bit-decode.md). The operator is only
 * fast where it rounds its input to eight bits, in blocks of 32 with a scale each. So the input
 * comes in two rows, its rounding and what the rounding leaves, and the rounding is the operator's
 * own: it rounds the first row to itself, and of the second it loses what float32 loses. The
 * operator multiplies by `scale · (q − 8)`; what is missing, `shift` for all inputs of a block,
 * multiplies their sum.
 *
 * A row's product has the same bits whatever the other rows are, provided that there are two: a
 * single one is multiplied by another kernel. Two are what each input becomes.
 */
export class FourBitLinears implements Linears {
  readonly #model: OnnxModel;
  readonly #matrices: ReadonlyMap<string, FourBitLinear>;
  readonly #otherwise: Linears;

  constructor(model: OnnxModel, matrices: ReadonlyMap<string, FourBitLinear>, otherwise: Linears) {
    this.#model = model;
    this.#matrices = matrices;
    this.#otherwise = otherwise;
  }

  multiply(input: string, names: readonly string[]): readonly string[] {
    const matrix = this.#matrices.get(fourBitName(names));
    if (matrix === undefined) return this.#otherwise.multiply(input, names);
    const model = this.#model;
    const { inputs, outputs } = matrix;
    assert(outputs.length === names.length, 'a matrix for each name');
    const { values } = fourBitBlock;
    const blocks = model.node('Reshape', [input, model.integers(1, -1, inputs / values, values)]);
    const products = model.split(
      this.#blockProduct(this.#inTwoParts(blocks, inputs), matrix),
      0,
      model.integers(1, 1),
      2,
    );
    const attributes = { keepdims: 0 };
    const blockSums = model.node('ReduceSum', [blocks, model.integers(3)], { attributes });
    const shifted = product(model, blockSums, matrix.shifts);
    const sum = model.node('Sum', [...products, shifted]);
    return model.split(sum, 2, model.integers(...outputs), outputs.length);
  }

  /**
   * @param blocks `[1, N, blocks, 32]`
   * @returns what eight bits hold, and the rest, `[2, N, inputs]`
   */
  #inTwoParts(blocks: string, inputs: number): string {
    const model = this.#model;
    const magnitudes = model.node('Abs', [blocks]);
    const largest = model.node('ReduceMax', [magnitudes, model.integers(3)], {
      attributes: { keepdims: 1 },
    });
    const step = model.node('Mul', [largest, this.#number('eight_bit_step', 1 / mostOfEightBits)]);
    // A block of zeros has no step, and dividing by it would give no numbers.
    const scale = model.node('Max', [step, this.#number('least_step', leastStep)]);
    const numbers = model.node('Round', [model.node('Div', [blocks, scale])]);
    const rounded = model.node('Mul', [numbers, scale]);
    const rest = model.node('Sub', [blocks, rounded]);
    const both = model.node('Concat', [rounded, rest], { attributes: { axis: 0 } });
    return model.node('Reshape', [both, model.integers(2, -1, inputs)]);
  }

  #blockProduct(input: string, { codes, scales, inputs, outputs }: FourBitLinear): string {
    const weights = [codes, scales].map((part) => this.#model.weight(part, basename(part.file)));
    return this.#model.node('MatMulNBits', [input, ...weights], {
      microsoft: true,
      attributes: {
        K: inputs,
        N: outputs.reduce((sum, each) => sum + each, 0),
        bits: 4,
        block_size: fourBitBlock.values,
        accuracy_level: eightBitInputs,
      },
    });
  }

  #number(name: string, value: number): string {
    return this.#model.constant(name, Float32Array.of(value), [1]);
  }
}

/** MatMulNBits' `accuracy_level`: inputs are rounded to eight bits. */
const eightBitInputs = 4;

/** Largest number of a block that the operator rounds. */
const mostOfEightBits = 127;

/** Far below any input that matters, and far above what division would not take. */
const leastStep = 1e-30;
