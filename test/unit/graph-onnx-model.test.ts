import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { AssertionError } from '../../src/core/assert.ts';
import { OnnxModel } from '../../src/graph/onnx-model.ts';
import { loadOrt } from '../../src/runtime/ort/api.ts';
import { OrtEnvironment } from '../../src/runtime/ort/session.ts';
import type { OrtTensor } from '../../src/runtime/ort/tensor.ts';

/*
 * ONNX Runtime itself is the reader: what it computes shows that names, types, attributes and data
 * were written as it understands them.
 */
let folder: string;
let environment: OrtEnvironment;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'readonce-onnx-'));
  environment = new OrtEnvironment(loadOrt(), { threads: 1, tensors: [] });
});
afterAll(() => {
  environment.close();
  rmSync(folder, { recursive: true });
});

interface Bound {
  readonly data: Float32Array | Int32Array | BigInt64Array;
  readonly shape: readonly number[];
}

/** Runs a model; outputs are written into the arrays given for them. */
function run(
  model: OnnxModel,
  inputs: Readonly<Record<string, Bound>>,
  outputs: Readonly<Record<string, Bound>>,
): void {
  const session = environment.createSession(model.encode(), folder);
  const binding = session.bind();
  const tensors: OrtTensor[] = [];
  const tensor = ({ data, shape }: Bound): OrtTensor => {
    const made = environment.tensor(data, shape);
    tensors.push(made);
    return made;
  };
  try {
    for (const [name, bound] of Object.entries(inputs)) binding.input(name, tensor(bound));
    for (const [name, bound] of Object.entries(outputs)) binding.output(name, tensor(bound));
    binding.run();
  } finally {
    binding.close();
    for (const made of tensors) made.close();
    session.close();
  }
}

const floats = (shape: readonly number[], ...values: readonly number[]): Bound => ({
  data: Float32Array.from(values),
  shape,
});

const empty = (...shape: readonly number[]): Bound => ({
  data: new Float32Array(shape.reduce((product, size) => product * size, 1)),
  shape,
});

describe('OnnxModel', () => {
  it('computes node by node, with float and integer attributes', () => {
    const model = new OnnxModel();
    const x = model.input('x', 'float32', [2, 2]);
    const y = model.input('y', 'float32', [2, 2]);
    const product = model.node('FusedMatMul', [x, y], {
      microsoft: true,
      attributes: { transB: 1, alpha: { float: 0.5 } },
    });
    model.node('Add', [product, x], { outputs: [model.output('sum', 'float32', [2, 2])] });
    const sum = empty(2, 2);
    run(model, { x: floats([2, 2], 1, 2, 3, 4), y: floats([2, 2], 5, 6, 7, 8) }, { sum });
    // 0.5 · [[1·5+2·6, 1·7+2·8], [3·5+4·6, 3·7+4·8]] + x
    expect([...sum.data]).toEqual([9.5, 13.5, 22.5, 30.5]);
  });

  it('writes lists of integers and negative ones', () => {
    const model = new OnnxModel();
    const x = model.input('x', 'float32', [2, 1, 3]);
    const turned = model.node('Transpose', [x], { attributes: { perm: [2, 1, 0] } });
    model.node('Concat', [turned, turned], {
      attributes: { axis: -1 },
      outputs: [model.output('twice', 'float32', [3, 1, 4])],
    });
    const twice = empty(3, 1, 4);
    run(model, { x: floats([2, 1, 3], 1, 2, 3, 4, 5, 6) }, { twice });
    expect([...twice.data]).toEqual([1, 4, 1, 4, 2, 5, 2, 5, 3, 6, 3, 6]);
  });

  it('writes strings', () => {
    const model = new OnnxModel();
    const x = model.input('x', 'float32', [2]);
    const pads = model.integers(1, 2);
    model.node('Pad', [x, pads], {
      attributes: { mode: 'edge' },
      outputs: [model.output('padded', 'float32', [5])],
    });
    const padded = empty(5);
    run(model, { x: floats([2], 3, 4) }, { padded });
    expect([...padded.data]).toEqual([3, 3, 4, 4, 4]);
  });

  it('takes dimensions that are named or unknown as they come', () => {
    const model = new OnnxModel();
    const x = model.input('x', 'float32', ['rows', null]);
    model.node('Neg', [x], { outputs: [model.output('negative', 'float32', ['rows', null])] });
    for (const [rows, columns] of [
      [1, 3],
      [2, 2],
    ] as const) {
      const negative = empty(rows, columns);
      const values = Array.from({ length: rows * columns }, (_, i) => i + 1);
      run(model, { x: floats([rows, columns], ...values) }, { negative });
      expect([...negative.data]).toEqual(values.map((value) => -value));
    }
  });

  it('maps a weight where it lies in its file', () => {
    const offsetBytes = 4096;
    const file = join(folder, 'weights.safetensors');
    const bytes = Buffer.alloc(offsetBytes + 64, 0xff);
    bytes.set(new Uint8Array(Float32Array.of(10, 20, 30, 40).buffer), offsetBytes);
    writeFileSync(file, bytes);
    const model = new OnnxModel();
    const x = model.input('x', 'float32', [2, 2]);
    const ref = { name: 'layer.weight', shape: [2, 2], file, offsetBytes, sizeBytes: 16 };
    const weight = model.weight(ref, 'weights.safetensors');
    expect(model.weight(ref, 'weights.safetensors')).toBe(weight);
    model.node('Add', [x, weight], { outputs: [model.output('sum', 'float32', [2, 2])] });
    const sum = empty(2, 2);
    run(model, { x: floats([2, 2], 1, 2, 3, 4) }, { sum });
    expect([...sum.data]).toEqual([11, 22, 33, 44]);
    expect(model.encode().length).toBeLessThan(offsetBytes);
  });

  it('writes a constant of a name once', () => {
    const model = new OnnxModel();
    const table = new Float32Array(1000);
    const size = (): number => model.encode().length;
    model.constant('table', table, [1000]);
    const once = size();
    expect(once).toBeGreaterThan(4000);
    model.constant('table', table, [1000]);
    expect(model.integers(1, 2)).toBe(model.integers(1, 2));
    expect(size()).toBeLessThan(once + 100);
  });

  it('splits by sizes that an input gives', () => {
    const model = new OnnxModel();
    const x = model.input('x', 'float32', [1, 5]);
    const sizes = model.input('sizes', 'int64', [2]);
    const pieces = model.split(x, 1, sizes, 2);
    for (const [i, piece] of pieces.entries()) {
      model.node('Identity', [piece], {
        outputs: [model.output(`piece ${i}`, 'float32', [1, null])],
      });
    }
    const [first, second] = [empty(1, 2), empty(1, 3)];
    const inputs = {
      x: floats([1, 5], 1, 2, 3, 4, 5),
      sizes: { data: BigInt64Array.of(2n, 3n), shape: [2] },
    };
    run(model, inputs, { 'piece 0': first, 'piece 1': second });
    expect([...first.data]).toEqual([1, 2]);
    expect([...second.data]).toEqual([3, 4, 5]);
    expect(model.split(x, 1, sizes, 1)).toEqual([x]);
  });

  it('leaves optional outputs off that have no name', () => {
    const model = new OnnxModel();
    const x = model.input('x', 'float32', [1, 2]);
    const ones = model.constant('ones', Float32Array.of(1, 1), [2]);
    const sum = model.output('sum', 'float32', [1, 2]);
    model.node('SkipSimplifiedLayerNormalization', [x, x, ones], {
      microsoft: true,
      attributes: { epsilon: { float: 0 } },
      outputs: [model.output('normal', 'float32', [1, 2]), '', '', sum],
    });
    const outputs = { normal: empty(1, 2), sum: empty(1, 2) };
    run(model, { x: floats([1, 2], 1, 7) }, outputs);
    expect([...outputs.sum.data]).toEqual([2, 14]);
    // Divided by the root of the mean square of 2 and 14, which is 10.
    expect([...outputs.normal.data].map((value) => Number(value).toFixed(5))).toEqual([
      '0.20000',
      '1.40000',
    ]);
  });

  it('needs an output for every node', () => {
    const model = new OnnxModel();
    expect(() => model.node('Neg', ['x'], { outputs: [] })).toThrow(AssertionError);
  });

  it('that ONNX Runtime refuses becomes an error of ours', () => {
    const model = new OnnxModel();
    const x = model.input('x', 'float32', [1]);
    model.node('NoSuchOperator', [x], { outputs: [model.output('y', 'float32', [1])] });
    expect(() => environment.createSession(model.encode(), folder)).toThrow(
      expect.objectContaining({
        code: 'internal',
        message: expect.stringContaining('NoSuchOperator') as string,
      }),
    );
  });
});
