import { loadCheckpoint } from '../../src/model/load.ts';
import type { GraphSource } from '../../src/graph/decoder-blocks.ts';
import { randomModel, type TinyModelOptions } from '../support/tiny-model.ts';

const common = {
  layers: 3,
  kvHeads: 2,
  headDim: 128,
  feedForwardSize: 1536,
  vocabSize: 8192,
  feedForwardBias: false,
  ropeScaling: null,
  seed: 11,
} as const;

/** Small models in the shapes of large ones: Llama's groups of 4, Qwen's of 7 with biases. */
const shapes: Readonly<Record<string, TinyModelOptions>> = {
  'random-llama': {
    ...common,
    queryHeads: 8,
    hiddenSize: 1024,
    attentionBias: false,
    tiedHead: false,
  },
  'random-qwen': {
    ...common,
    queryHeads: 14,
    hiddenSize: 1792,
    attentionBias: true,
    tiedHead: false,
  },
};

/** A model by name: random weights, made in `folder`, or what `READONCE_MODEL` takes. */
export async function modelOf(name: string, folder: string): Promise<GraphSource> {
  const shape = shapes[name];
  if (shape === undefined) return loadCheckpoint({ model: name, cacheFolder: folder });
  const { config, tensors } = randomModel(folder, shape);
  return { config: { ...config, contextLength: 8192 }, tensors };
}
