import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe } from 'vitest';
import type { Runtime } from '../../src/runtime/runtime.ts';
import { naiveDecoder } from '../support/naive-decoder.ts';
import { randomModel } from '../support/tiny-model.ts';
import type { TinyModel, TinyModelOptions } from '../support/tiny-model.ts';
import { denseContract } from './runtime/dense-contract.ts';
import { forwardContract } from './runtime/forward-contract.ts';
import { raggedContract } from './runtime/ragged-contract.ts';
import { scoreContract } from './runtime/score-contract.ts';
import { storedRowsContract } from './runtime/stored-rows-contract.ts';
import type { RuntimeTolerances, Subject } from './runtime/subject.ts';

const shapes: Readonly<Record<string, TinyModelOptions>> = {
  'grouped queries and a tied head': {
    layers: 2,
    queryHeads: 4,
    kvHeads: 2,
    headDim: 16,
    hiddenSize: 64,
    feedForwardSize: 96,
    vocabSize: 101,
    attentionBias: false,
    feedForwardBias: false,
    tiedHead: true,
    ropeScaling: null,
    seed: 1,
  },
  'biases, an untied head, scaled RoPE and heads wider than the hidden state': {
    layers: 3,
    queryHeads: 6,
    kvHeads: 2,
    headDim: 16,
    hiddenSize: 48,
    feedForwardSize: 80,
    vocabSize: 67,
    attentionBias: true,
    feedForwardBias: true,
    tiedHead: false,
    // Wavelengths run from 6 to 20,000 tokens: some are kept, some blended, some stretched.
    ropeScaling: {
      kind: 'llama3',
      factor: 8,
      lowFrequencyFactor: 1,
      highFrequencyFactor: 4,
      originalContextLength: 32,
    },
    seed: 2,
  },
  'one KV head for each query head': {
    layers: 2,
    queryHeads: 2,
    kvHeads: 2,
    headDim: 32,
    hiddenSize: 64,
    feedForwardSize: 64,
    vocabSize: 50,
    attentionBias: false,
    feedForwardBias: false,
    tiedHead: false,
    ropeScaling: null,
    seed: 3,
  },
};

/**
 * What every runtime must do, whatever its device: run for each by a test file of its own. The
 * oracle is a textbook decoder that knows neither caches nor chunks.
 * @param factory makes the runtime of a model whose weights lie in a float32 safetensors file
 * @param createModel makes the models; default: any float32 values
 */
export function runtimeContract(
  name: string,
  factory: (model: TinyModel) => Runtime | Promise<Runtime>,
  tolerances: RuntimeTolerances,
  createModel: (
    folder: string,
    options: TinyModelOptions,
  ) => TinyModel | Promise<TinyModel> = randomModel,
): void {
  describe.each(Object.entries(shapes))(`${name}: a model with %s`, (_, shape) => {
    let folder: string;
    let subject: Subject;
    beforeAll(async () => {
      folder = mkdtempSync(join(tmpdir(), 'readonce-runtime-'));
      const model = await createModel(folder, shape);
      subject = { model, runtime: await factory(model), naive: naiveDecoder(model), tolerances };
    });
    afterAll(() => {
      subject.runtime.close();
      rmSync(folder, { recursive: true });
    });
    forwardContract(() => subject);
    raggedContract(() => subject);
    denseContract(() => subject);
    scoreContract(() => subject);
    storedRowsContract(() => subject);
  });
}
