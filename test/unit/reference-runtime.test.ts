import { mkdtempSync, rmSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { AssertionError } from '../../src/core/assert.ts';
import { createReferenceRuntime } from '../../src/runtime/reference/reference-runtime.ts';
import type { ReferenceModel } from '../../src/runtime/reference/reference-runtime.ts';
import { emptyRequest } from '../contract/runtime/subject.ts';
import { randomModel } from '../support/tiny-model.ts';
import type { TinyModel } from '../support/tiny-model.ts';

const shape = {
  layers: 3,
  queryHeads: 2,
  kvHeads: 1,
  headDim: 4,
  hiddenSize: 8,
  feedForwardSize: 12,
  vocabSize: 20,
  attentionBias: false,
  feedForwardBias: false,
  tiedHead: false,
  ropeScaling: null,
  seed: 4,
};

describe('createReferenceRuntime', () => {
  let folder: string;
  let model: TinyModel;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'readonce-reference-'));
    model = randomModel(folder, shape);
  });
  afterAll(() => {
    rmSync(folder, { recursive: true });
  });

  const logitsOf = (source: ReferenceModel, layers?: number): readonly number[] => {
    const runtime = createReferenceRuntime(source, layers === undefined ? {} : { layers });
    const ids = Int32Array.of(3, 1, 4);
    const [logits] = runtime.forward([{ ...emptyRequest(runtime), ids, startPosition: 0 }]);
    return [...(logits?.values() ?? [])];
  };

  it('runs the first layers as a model that has no more', () => {
    const runtime = createReferenceRuntime(model, { layers: 2 });
    expect(runtime.layout.layers).toBe(2);
    expect(runtime.config.layers).toBe(2);
    const shorter = { ...model, config: { ...model.config, layers: 2 } };
    expect(logitsOf(model, 2)).toEqual(logitsOf(shorter));
    expect(logitsOf(model, 2)).not.toEqual(logitsOf(model));
  });

  it('takes tensors from memory as from a file', () => {
    const tensors = new Map(
      [...model.tensors.keys()].map((name) => [
        name,
        new Float32Array(elements(model, name)).fill(0.5),
      ]),
    );
    const constant = logitsOf({ config: model.config, tensors });
    expect(new Set(constant).size).toBe(1);
    // All weights 0.5: the norm gives 0.5 · sign, the head 8 · 0.5 · 0.5 = 2, less epsilon's share.
    expect(constant[0]).toBeCloseTo(2, 4);
  });

  it.each([0, 4, 1.5])('refuses to run %d of 3 layers', (layers) => {
    expect(() => createReferenceRuntime(model, { layers })).toThrow(AssertionError);
  });

  it('says which tensor is missing or has another size', () => {
    const missing = new Map(model.tensors);
    missing.delete('lm_head.weight');
    expect(() => createReferenceRuntime({ ...model, tensors: missing })).toThrow(/lm_head\.weight/);
    const config = { ...model.config, feedForwardSize: 13 };
    expect(() => createReferenceRuntime({ ...model, config })).toThrow(
      /Expected 104 elements for model\.layers\.0\.mlp\.gate_proj\.weight but got 96/,
    );
  });

  it('refuses tokens outside the vocabulary and positions outside the window', () => {
    const runtime = createReferenceRuntime(model);
    const parts = emptyRequest(runtime);
    const run = (ids: readonly number[], startPosition: number) => () =>
      runtime.forward([{ ...parts, ids: Int32Array.from(ids), startPosition }]);
    expect(run([20], 0)).toThrow(AssertionError);
    expect(run([-1], 0)).toThrow(AssertionError);
    expect(run([], 0)).toThrow(AssertionError);
    expect(run([1, 2], model.config.contextLength - 1)).toThrow(AssertionError);
    expect(run([1, 2], model.config.contextLength - 2)).not.toThrow();
  });

  it('says when a weight file is too short', () => {
    const cut = mkdtempSync(join(folder, 'cut-'));
    const shortened = randomModel(cut, shape);
    truncateSync(join(cut, 'model.safetensors'), 2000);
    expect(() => createReferenceRuntime(shortened)).toThrow(/the file ends after/);
  });
});

function elements(model: TinyModel, name: string): number {
  return (model.tensors.get(name)?.sizeBytes ?? 0) / 4;
}
