import { closeSync, openSync, readSync } from 'node:fs';
import { assert } from '../../core/assert.ts';
import { ReadonceError } from '../../core/errors.ts';
import type { TensorRef } from '../../model/checkpoint.ts';
import type { ModelConfig } from '../../model/config.ts';

/** What the reference runtime needs of a checkpoint. Tensors lie in files or in memory. */
export interface ReferenceModel {
  readonly config: ModelConfig;
  /** By Hugging Face name; in-memory tensors are row-major. */
  readonly tensors: ReadonlyMap<string, TensorRef | Float32Array>;
}

/** y = W·x + b. All weights are widened to float64 once, which is exact. */
export interface Linear {
  readonly inputs: number;
  readonly outputs: number;
  /** `[outputs, inputs]` */
  readonly weight: Float64Array;
  /** `[outputs]` */
  readonly bias: Float64Array | null;
}

/** The weights of one layer, in the order they are used. */
export interface LayerWeights {
  /** `[hiddenSize]` */
  readonly attentionNorm: Float64Array;
  readonly query: Linear;
  readonly key: Linear;
  readonly value: Linear;
  readonly output: Linear;
  /** `[hiddenSize]` */
  readonly feedForwardNorm: Float64Array;
  readonly gate: Linear;
  readonly up: Linear;
  readonly down: Linear;
}

/** All weights of a decoder, float64. */
export interface DecoderWeights {
  /** `[vocabSize, hiddenSize]` */
  readonly embedding: Float64Array;
  readonly layers: readonly LayerWeights[];
  /** `[hiddenSize]` */
  readonly finalNorm: Float64Array;
  /** The embedding itself if the head is tied. */
  readonly head: Linear;
}

/**
 * Reads the weights of the first `config.layers` layers into memory: 8 bytes a parameter.
 * @throws ReadonceError `invalid_argument` when a tensor is missing or has another size than the
 * config says, or its file is too short.
 */
export function loadWeights(model: ReferenceModel): DecoderWeights {
  const { config } = model;
  const tensor = (name: string, elements: number): Float64Array =>
    readTensor(model, name, elements);
  const linear = (name: string, shape: LinearShape): Linear => ({
    inputs: shape.inputs,
    outputs: shape.outputs,
    weight: tensor(`${name}.weight`, shape.inputs * shape.outputs),
    bias: shape.bias ? tensor(`${name}.bias`, shape.outputs) : null,
  });
  const embedding = tensor('model.embed_tokens.weight', config.vocabSize * config.hiddenSize);
  const headShape = { inputs: config.hiddenSize, outputs: config.vocabSize, bias: false };
  return {
    embedding,
    layers: Array.from({ length: config.layers }, (_, index) =>
      layerWeights(`model.layers.${index}`, { config, tensor, linear }),
    ),
    finalNorm: tensor('model.norm.weight', config.hiddenSize),
    head: config.tiedHead
      ? { inputs: config.hiddenSize, outputs: config.vocabSize, weight: embedding, bias: null }
      : linear('lm_head', headShape),
  };
}

interface LinearShape {
  readonly inputs: number;
  readonly outputs: number;
  readonly bias: boolean;
}

interface TensorReaders {
  readonly config: ModelConfig;
  readonly tensor: (name: string, elements: number) => Float64Array;
  readonly linear: (name: string, shape: LinearShape) => Linear;
}

function layerWeights(name: string, { config, tensor, linear }: TensorReaders): LayerWeights {
  const { hiddenSize, feedForwardSize } = config;
  const queryWidth = config.queryHeads * config.headDim;
  const kvWidth = config.kvHeads * config.headDim;
  const attention = (part: string, inputs: number, outputs: number): Linear =>
    linear(`${name}.self_attn.${part}`, { inputs, outputs, bias: config.attentionBias });
  const feedForward = (part: string, inputs: number, outputs: number): Linear =>
    linear(`${name}.mlp.${part}`, { inputs, outputs, bias: config.feedForwardBias });
  return {
    attentionNorm: tensor(`${name}.input_layernorm.weight`, hiddenSize),
    query: attention('q_proj', hiddenSize, queryWidth),
    key: attention('k_proj', hiddenSize, kvWidth),
    value: attention('v_proj', hiddenSize, kvWidth),
    output: attention('o_proj', queryWidth, hiddenSize),
    feedForwardNorm: tensor(`${name}.post_attention_layernorm.weight`, hiddenSize),
    gate: feedForward('gate_proj', hiddenSize, feedForwardSize),
    up: feedForward('up_proj', hiddenSize, feedForwardSize),
    down: feedForward('down_proj', feedForwardSize, hiddenSize),
  };
}

function readTensor(model: ReferenceModel, name: string, elements: number): Float64Array {
  const source = model.tensors.get(name);
  if (source === undefined) {
    throw new ReadonceError(
      'invalid_argument',
      `Expected the checkpoint to have the tensor ${name} but it does not. ` +
        'Check that config and weights belong together.',
    );
  }
  const values = source instanceof Float32Array ? source : readFloats(source);
  if (values.length !== elements) {
    throw new ReadonceError(
      'invalid_argument',
      `Expected ${elements} elements for ${name} but got ${values.length}. ` +
        'Check that config and weights belong together.',
    );
  }
  return new Float64Array(values);
}

function readFloats(ref: TensorRef): Float32Array {
  assert(ref.sizeBytes % 4 === 0, `expected whole float32 values for ${ref.name}`);
  const bytes = new Uint8Array(ref.sizeBytes);
  const file = openSync(ref.file, 'r');
  try {
    let done = 0;
    while (done < bytes.length) {
      const read = readSync(file, bytes, done, bytes.length - done, ref.offsetBytes + done);
      if (read === 0) {
        throw new ReadonceError(
          'invalid_argument',
          `Expected ${bytes.length} bytes for ${ref.name} but the file ends after ${done}. ` +
            'Fetch the checkpoint again.',
        );
      }
      done += read;
    }
  } finally {
    closeSync(file);
  }
  return new Float32Array(bytes.buffer);
}
