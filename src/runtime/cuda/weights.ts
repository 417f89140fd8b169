import { assert, defined } from '../../core/assert.ts';
import type { Closeable } from '../../core/closeable.ts';
import type { GraphSource } from '../../graph/decoder-blocks.ts';
import type { ComputeType, LayerGraphKind } from '../../graph/layer-graphs.ts';
import type { TensorRef } from '../../model/checkpoint.ts';
import { ropeTables } from '../../model/rope.ts';
import { mapFile, type MappedFile } from '../mapped-file.ts';
import type { OrtTensor } from '../ort/tensor.ts';
import { Arena, Layout, type Region } from './arena.ts';
import { kernelType } from './compute-type.ts';
import type { TensorGpu } from './gpu.ts';
import type { HostMemory } from './stream.ts';

/** A weight of a layer graph: matrices or vectors of the checkpoint, one behind another. */
interface Weight {
  readonly parts: readonly TensorRef[];
  readonly shape: readonly number[];
  readonly region: Region;
}

/** Inputs of the graphs that belong to a layer, and what of the checkpoint they consist of. */
const layerParts = {
  norm: ['input_layernorm.weight'],
  qkv: ['self_attn.q_proj.weight', 'self_attn.k_proj.weight', 'self_attn.v_proj.weight'],
  qkv_bias: ['self_attn.q_proj.bias', 'self_attn.k_proj.bias', 'self_attn.v_proj.bias'],
  attention_out: ['self_attn.o_proj.weight'],
  attention_out_bias: ['self_attn.o_proj.bias'],
  inner_norm: ['post_attention_layernorm.weight'],
  gate_up: ['mlp.gate_proj.weight', 'mlp.up_proj.weight'],
  gate_up_bias: ['mlp.gate_proj.bias', 'mlp.up_proj.bias'],
  down: ['mlp.down_proj.weight'],
  down_bias: ['mlp.down_proj.bias'],
} as const;

type LayerPart = keyof typeof layerParts;

const attentionBiases: ReadonlySet<LayerPart> = new Set(['qkv_bias', 'attention_out_bias']);
const feedForwardBiases: ReadonlySet<LayerPart> = new Set(['gate_up_bias', 'down_bias']);

/** Parts that lead from a layer's attention on, and parts that lead to a layer's attention. */
const behindAttention: readonly LayerPart[] = [
  'attention_out',
  'attention_out_bias',
  'inner_norm',
  'gate_up',
  'gate_up_bias',
  'down',
  'down_bias',
];
const aheadOfAttention: readonly LayerPart[] = ['qkv', 'qkv_bias'];

/** Most numbers that are converted at once, in memory beside the weights. */
const conversionCount = 16 * 1024 * 1024;

/**
 * The model's weights in device memory, once: every layer's runs, of whatever kind, are given the
 * same tensors. Matrices that multiply the same input lie one behind another.
 */
export class DeviceWeights implements Closeable {
  readonly #gpu: TensorGpu;
  readonly #source: GraphSource;
  readonly #type: ComputeType;
  readonly #weights = new Map<string, Weight>();
  readonly #tensors = new Map<string, OrtTensor>();
  readonly #arena: Arena;
  readonly #tables: Readonly<Record<'cos' | 'sin', Region>>;

  /** @throws ReadonceError `out_of_memory` */
  constructor(gpu: TensorGpu, source: GraphSource, type: ComputeType) {
    this.#gpu = gpu;
    this.#source = source;
    this.#type = type;
    const layout = new Layout();
    this.#plan(layout);
    const { contextLength, headDim } = source.config;
    const tableBytes = contextLength * (headDim / 2) * elementBytes;
    this.#tables = { cos: layout.add(tableBytes), sin: layout.add(tableBytes) };
    this.#arena = new Arena(gpu.device, layout);
    const files = new Map<string, MappedFile>();
    try {
      this.#upload(files);
    } catch (error) {
      this.#arena.close();
      throw error;
    } finally {
      for (const file of files.values()) file.close();
    }
  }

  /** The LM head, `[vocabSize, hidden]`. */
  get head(): bigint {
    const weight = defined(this.#weights.get('head') ?? this.#weights.get('embedding'), 'head');
    return this.#arena.address(weight.region);
  }

  /** A graph's weights by input name. `between` follows the attention of `layer`. */
  inputs(kind: LayerGraphKind, layer: number): Readonly<Record<string, OrtTensor>> {
    if (kind === 'attend') return {};
    if (kind === 'begin') {
      return {
        embedding: this.#tensor('embedding'),
        input_norm: this.#tensor('0.norm'),
        ...this.#ofLayer(0, aheadOfAttention),
        ...this.#rope(),
      };
    }
    const behind = this.#ofLayer(layer, behindAttention);
    if (kind === 'end') return { ...behind, next_norm: this.#tensor('final_norm') };
    return {
      ...behind,
      next_norm: this.#tensor(`${layer + 1}.norm`),
      ...this.#ofLayer(layer + 1, aheadOfAttention),
      ...this.#rope(),
    };
  }

  close(): void {
    for (const tensor of this.#tensors.values()) tensor.close();
    this.#tensors.clear();
    this.#arena.close();
  }

  #plan(layout: Layout): void {
    const { layers, tiedHead, attentionBias, feedForwardBias } = this.#source.config;
    this.#add(layout, 'embedding', ['model.embed_tokens.weight']);
    this.#add(layout, 'final_norm', ['model.norm.weight']);
    if (!tiedHead) this.#add(layout, 'head', ['lm_head.weight']);
    for (let layer = 0; layer < layers; layer++) {
      for (const [name, parts] of Object.entries(layerParts) as [LayerPart, readonly string[]][]) {
        if (attentionBiases.has(name) && !attentionBias) continue;
        if (feedForwardBiases.has(name) && !feedForwardBias) continue;
        const names = parts.map((part) => `model.layers.${layer}.${part}`);
        this.#add(layout, `${layer}.${name}`, names);
      }
    }
  }

  #add(layout: Layout, name: string, names: readonly string[]): void {
    const parts = names.map((each) => defined(this.#source.tensors.get(each), `tensor ${each}`));
    const [first] = parts;
    assert(first !== undefined, 'a weight has parts');
    const rows = parts.reduce((sum, { shape }) => sum + defined(shape[0], 'a dimension'), 0);
    const shape = [rows, ...first.shape.slice(1)];
    this.#weights.set(name, { parts, shape, region: layout.add(valuesOf(shape) * elementBytes) });
  }

  #upload(files: Map<string, MappedFile>): void {
    const { device, stream } = this.#gpu;
    const staging = device.allocate(conversionCount * Float32Array.BYTES_PER_ELEMENT);
    try {
      for (const { parts, region } of this.#weights.values()) {
        let target = this.#arena.address(region);
        for (const part of parts) {
          this.#put(part, fileOf(part, files), { target, staging: staging.address });
          target += BigInt(valuesOf(part.shape) * elementBytes);
        }
      }
      const tables = ropeTables(this.#source.config);
      for (const name of ['cos', 'sin'] as const) {
        const target = this.#arena.address(this.#tables[name]);
        this.#convert(arraySource(tables[name]), { target, staging: staging.address });
      }
      stream.synchronize();
    } finally {
      staging.close();
    }
  }

  #put(part: TensorRef, file: MappedFile, to: Target): void {
    const type = part.type ?? 'float32';
    const source: Source = {
      type: checkpointTypes[defined(type === 'uint8' ? undefined : type, 'a type of numbers')],
      count: valuesOf(part.shape),
      at: (offsetBytes, sizeBytes) => {
        const address = file.pointer(part.offsetBytes + offsetBytes);
        assert(typeof address === 'bigint', 'the file is mapped');
        return { address, sizeBytes };
      },
    };
    this.#convert(source, to);
  }

  /** Copies numbers to the device, and makes those of another type there into ours. */
  #convert(source: Source, { target, staging }: Target): void {
    const { stream, kernels } = this.#gpu;
    const sourceBytes = source.type === 'f32' ? 4 : 2;
    const to = kernelType[this.#type];
    if (source.type === to) {
      stream.copyToDevice(target, source.at(0, source.count * sourceBytes));
      return;
    }
    for (let start = 0; start < source.count; start += conversionCount) {
      const count = Math.min(conversionCount, source.count - start);
      stream.copyToDevice(staging, source.at(start * sourceBytes, count * sourceBytes));
      kernels.convert(stream, {
        from: source.type,
        to,
        source: staging,
        target: target + BigInt(start * elementBytes),
        count,
      });
    }
    // Ordinary memory is read by the time a copy returns, the staging memory is not.
    stream.synchronize();
  }

  #ofLayer(layer: number, parts: readonly LayerPart[]): Readonly<Record<string, OrtTensor>> {
    const present = parts.filter((part) => this.#weights.has(`${layer}.${part}`));
    return Object.fromEntries(present.map((part) => [part, this.#tensor(`${layer}.${part}`)]));
  }

  #tensor(name: string): OrtTensor {
    const { shape, region } = defined(this.#weights.get(name), `weight ${name}`);
    return this.#tensorAt(name, region, shape);
  }

  #rope(): Readonly<Record<string, OrtTensor>> {
    const { contextLength, headDim } = this.#source.config;
    const shape = [contextLength, headDim / 2];
    return {
      cos: this.#tensorAt('cos', this.#tables.cos, shape),
      sin: this.#tensorAt('sin', this.#tables.sin, shape),
    };
  }

  #tensorAt(name: string, region: Region, shape: readonly number[]): OrtTensor {
    let tensor = this.#tensors.get(name);
    if (tensor === undefined) {
      tensor = this.#gpu.ort.tensor(this.#type, this.#arena.address(region), shape);
      this.#tensors.set(name, tensor);
    }
    return tensor;
  }
}

/** Of both compute types. */
const elementBytes = 2;

const checkpointTypes = { float32: 'f32', float16: 'f16', bfloat16: 'bf16' } as const;

interface Source {
  readonly type: 'f32' | 'f16' | 'bf16';
  readonly count: number;
  at(offsetBytes: number, sizeBytes: number): HostMemory;
}

interface Target {
  readonly target: bigint;
  readonly staging: bigint;
}

function arraySource(values: Float32Array): Source {
  return {
    type: 'f32',
    count: values.length,
    at: (offsetBytes, sizeBytes) =>
      new Uint8Array(values.buffer, values.byteOffset + offsetBytes, sizeBytes),
  };
}

function fileOf(part: TensorRef, files: Map<string, MappedFile>): MappedFile {
  let file = files.get(part.file);
  if (file === undefined) {
    file = mapFile(part.file);
    files.set(part.file, file);
  }
  return file;
}

function valuesOf(shape: readonly number[]): number {
  return shape.reduce((product, length) => product * length, 1);
}
