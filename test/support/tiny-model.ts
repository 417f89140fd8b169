import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createRandom } from '../../src/core/random.ts';
import type { Random } from '../../src/core/random.ts';
import type { FourBitLinear, TensorRef } from '../../src/model/checkpoint.ts';
import type { Llama3RopeScaling, ModelConfig } from '../../src/model/config.ts';

export interface TinyModelOptions {
  readonly layers: number;
  readonly queryHeads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly hiddenSize: number;
  readonly feedForwardSize: number;
  readonly vocabSize: number;
  readonly attentionBias: boolean;
  readonly feedForwardBias: boolean;
  readonly tiedHead: boolean;
  readonly ropeScaling: Llama3RopeScaling | null;
  readonly seed: number;
}

export interface TinyModel {
  readonly config: ModelConfig;
  /** By Hugging Face name, all in one float32 safetensors file. */
  readonly tensors: ReadonlyMap<string, TensorRef>;
  /** As `Checkpoint.fourBit`. */
  readonly fourBit?: ReadonlyMap<string, FourBitLinear> | undefined;
}

/**
 * A model with random weights, written to `model.safetensors` in `folder`. Activations stay near
 * unit size, and query and key weights are large enough that attention is far from uniform: a wrong
 * row, head or position shows in the logits.
 */
export function randomModel(folder: string, options: TinyModelOptions): TinyModel {
  const { seed, ...shape } = options;
  const config: ModelConfig = {
    family: 'llama',
    ...shape,
    rmsEpsilon: 1e-5,
    contextLength: 256,
    ropeTheta: 10_000,
    endTokenIds: [0],
  };
  const random = createRandom(seed);
  const file = join(folder, 'model.safetensors');
  const tensors = modelTensors(config).map((spec) => ({ spec, values: fill(spec, random) }));
  return { config, tensors: writeSafetensors(file, tensors) };
}

interface TensorSpec {
  readonly name: string;
  readonly shape: readonly number[];
  readonly mean: number;
  readonly deviation: number;
}

interface FilledTensor {
  readonly spec: TensorSpec;
  readonly values: Float32Array;
}

function modelTensors(config: ModelConfig): readonly TensorSpec[] {
  const { hiddenSize, vocabSize } = config;
  const norm = (name: string): TensorSpec => ({
    name: `${name}.weight`,
    shape: [hiddenSize],
    mean: 1,
    deviation: 0.2,
  });
  const table = (name: string): TensorSpec => ({
    name: `${name}.weight`,
    shape: [vocabSize, hiddenSize],
    mean: 0,
    deviation: 0.5,
  });
  return [
    table('model.embed_tokens'),
    ...Array.from({ length: config.layers }, (_, index) => [
      norm(`model.layers.${index}.input_layernorm`),
      norm(`model.layers.${index}.post_attention_layernorm`),
      ...projections(`model.layers.${index}`, config),
    ]).flat(),
    norm('model.norm'),
    ...(config.tiedHead ? [] : [table('lm_head')]),
  ];
}

function projections(layer: string, config: ModelConfig): readonly TensorSpec[] {
  const { hiddenSize, feedForwardSize, headDim } = config;
  const queryWidth = config.queryHeads * headDim;
  const kvWidth = config.kvHeads * headDim;
  const linear = (
    name: string,
    shape: readonly [outputs: number, inputs: number],
    { gain, bias }: { gain: number; bias: boolean },
  ): readonly TensorSpec[] => [
    { name: `${layer}.${name}.weight`, shape, mean: 0, deviation: gain / Math.sqrt(shape[1]) },
    ...(bias
      ? [{ name: `${layer}.${name}.bias`, shape: [shape[0]], mean: 0, deviation: 0.3 }]
      : []),
  ];
  const bias = config.attentionBias;
  const feedForward = { gain: 1, bias: config.feedForwardBias };
  return [
    // With q and k of deviation 1.5 the attention logits have about 1.5² = 2.25.
    ...linear('self_attn.q_proj', [queryWidth, hiddenSize], { gain: 1.5, bias }),
    ...linear('self_attn.k_proj', [kvWidth, hiddenSize], { gain: 1.5, bias }),
    ...linear('self_attn.v_proj', [kvWidth, hiddenSize], { gain: 1, bias }),
    ...linear('self_attn.o_proj', [hiddenSize, queryWidth], { gain: 1, bias }),
    ...linear('mlp.gate_proj', [feedForwardSize, hiddenSize], feedForward),
    ...linear('mlp.up_proj', [feedForwardSize, hiddenSize], feedForward),
    ...linear('mlp.down_proj', [hiddenSize, feedForwardSize], feedForward),
  ];
}

function fill(spec: TensorSpec, random: Random): Float32Array {
  const elements = spec.shape.reduce((product, size) => product * size, 1);
  return Float32Array.from({ length: elements }, () => spec.mean + spec.deviation * normal(random));
}

/** A standard normal number, by Box and Muller's transform. */
function normal(random: Random): number {
  const radius = Math.sqrt(-2 * Math.log(1 - random.next()));
  return radius * Math.cos(2 * Math.PI * random.next());
}

function writeSafetensors(file: string, tensors: readonly FilledTensor[]): Map<string, TensorRef> {
  const header: Record<string, unknown> = {};
  let end = 0;
  for (const { spec, values } of tensors) {
    header[spec.name] = {
      dtype: 'F32',
      shape: spec.shape,
      data_offsets: [end, end + values.byteLength],
    };
    end += values.byteLength;
  }
  const json = Buffer.from(JSON.stringify(header));
  const headerBytes = Math.ceil(json.length / 8) * 8;
  const dataStart = 8 + headerBytes;
  const bytes = Buffer.alloc(dataStart + end, ' ');
  bytes.writeBigUInt64LE(BigInt(headerBytes));
  json.copy(bytes, 8);
  const refs = new Map<string, TensorRef>();
  let offsetBytes = dataStart;
  for (const { spec, values } of tensors) {
    bytes.set(new Uint8Array(values.buffer), offsetBytes);
    const { name, shape } = spec;
    refs.set(name, { name, shape, file, offsetBytes, sizeBytes: values.byteLength });
    offsetBytes += values.byteLength;
  }
  writeFileSync(file, bytes);
  return refs;
}
