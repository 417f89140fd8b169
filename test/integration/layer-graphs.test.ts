import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { defined } from '../../src/core/assert.ts';
import { createRandom } from '../../src/core/random.ts';
import { createOrtCpuRuntime } from '../../src/runtime/ort/cpu-runtime.ts';
import { runPieces } from '../../src/runtime/run-pieces.ts';
import type { DenseCache, Runtime } from '../../src/runtime/runtime.ts';
import { expectClose, headsOf } from '../contract/runtime/subject.ts';
import { LayerChain, tensorValues } from '../support/layer-chain.ts';
import { forwardAlone, request } from '../support/ragged.ts';
import { randomModel, type TinyModel } from '../support/tiny-model.ts';

// The same operators on the same provider in float32; products are packed and cut otherwise. Rows
// and logits are up to 10 or so. Seen: 3e-6 in logits.
const tolerance = 1e-5;

const shape = {
  layers: 3,
  queryHeads: 6,
  kvHeads: 2,
  headDim: 16,
  hiddenSize: 32,
  feedForwardSize: 48,
  vocabSize: 50,
  ropeScaling: null,
  seed: 8,
};
const slices = [9, 1, 12, 1];

describe.each([
  { name: 'no biases', attentionBias: false, feedForwardBias: false, tiedHead: true },
  { name: 'biases of attention', attentionBias: true, feedForwardBias: false, tiedHead: false },
  { name: 'biases everywhere', attentionBias: true, feedForwardBias: true, tiedHead: true },
])('layer graphs of a model with $name', ({ attentionBias, feedForwardBias, tiedHead }) => {
  let folder: string;
  let model: TinyModel;
  let runtime: Runtime;
  let dense: DenseCache;
  let chain: LayerChain;
  let ids: Int32Array;
  /** Hidden states of the last token of each slice. */
  let hidden: readonly Float32Array[];

  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'readonce-layers-'));
    model = randomModel(folder, { ...shape, attentionBias, feedForwardBias, tiedHead });
    const random = createRandom(3);
    const tokens = slices.reduce((sum, count) => sum + count, 0);
    ids = Int32Array.from({ length: tokens }, () => random.nextUint32() % shape.vocabSize);
    runtime = createOrtCpuRuntime(model, { threads: 1 });
    dense = runtime.createDense(tokens + 10);
    runPieces(runtime.prefill(dense, ids));
    chain = new LayerChain(model, tokens + 3);
    let start = 0;
    hidden = slices.map((count) => {
      start += count;
      return chain.run(ids.subarray(start - count, start), [count - 1]);
    });
  });
  afterAll(() => {
    chain.close();
    runtime.close();
    rmSync(folder, { recursive: true });
  });

  it('leave the keys and values of the dense graphs, slice by slice', () => {
    const { kvHeads, headDim, layers } = shape;
    const heads = headsOf(runtime, dense);
    expect(chain.length).toBe(ids.length);
    for (let head = 0; head < layers * kvHeads; head++) {
      const start = (head % kvHeads) * (ids.length + 3) * headDim;
      const end = start + ids.length * headDim;
      const layer = Math.floor(head / kvHeads);
      const { keys, values } = defined(heads[head], 'a head');
      expectClose(chain.keys[layer]?.subarray(start, end), keys.flat(), tolerance);
      expectClose(chain.values[layer]?.subarray(start, end), values.flat(), tolerance);
    }
  });

  it('write no row that no token is of', () => {
    const { kvHeads, headDim } = shape;
    for (const rows of [...chain.keys, ...chain.values]) {
      for (let head = 0; head < kvHeads; head++) {
        const end = (head + 1) * (ids.length + 3) * headDim;
        expect([...rows.subarray(end - 3 * headDim, end)].every((value) => value === 0)).toBe(true);
      }
    }
  });

  it('give the hidden states that the query graph’s logits are made of', () => {
    const name = tiedHead ? 'model.embed_tokens.weight' : 'lm_head.weight';
    const head = tensorValues(defined(model.tensors.get(name), name));
    let end = 0;
    for (const [i, count] of slices.entries()) {
      end += count;
      const before = runtime.createDense(ids.length);
      if (end > 1) runPieces(runtime.prefill(before, ids.subarray(0, end - 1)));
      const parts = request(runtime, runtime.contextOf(before));
      const last = { ids: ids.subarray(end - 1, end), startPosition: end - 1 };
      const expected = forwardAlone(runtime, parts, last);
      expectClose(product(head, defined(hidden[i], 'hidden states')), expected, tolerance);
    }
  });

  it('give the hidden states of the rows that are asked for, in their order', () => {
    const other = new LayerChain(model, 40);
    const [rows, { hiddenSize }] = [[8, 0, 3, 3], shape];
    const found = other.run(ids.subarray(0, 9), rows);
    other.close();
    for (const [i, row] of rows.entries()) {
      const single = new LayerChain(model, 40);
      const expected = single.run(ids.subarray(0, row + 1), [row]);
      single.close();
      expectClose(found.subarray(i * hiddenSize, (i + 1) * hiddenSize), expected, tolerance);
    }
  });
});

/** Logits: the head `[vocabSize, hidden]` times a hidden state. */
function product(head: Float32Array, hidden: Float32Array): readonly number[] {
  return Array.from({ length: head.length / hidden.length }, (_, id) =>
    hidden.reduce((sum, value, i) => sum + value * (head[id * hidden.length + i] ?? 0), 0),
  );
}
