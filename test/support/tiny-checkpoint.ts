import { copyFileSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { defined } from '../../src/core/assert.ts';
import { floatToHalf } from '../../src/core/half.ts';
import { createRandom } from '../../src/core/random.ts';
import { embeddedFolder } from '../../src/model/embedded.ts';
import { llama } from '../../src/model/families/llama.ts';
import { parseHfConfig } from '../../src/model/hf-config.ts';

/** A folder of its own under the system's temporary one; the caller removes it. */
export function temporaryFolder(): string {
  return mkdtempSync(join(tmpdir(), 'readonce-model-'));
}

/** config.json of a model that takes no time: two layers, with `reader-mini`'s tokenizer. */
export const tinyConfig = {
  architectures: ['LlamaForCausalLM'],
  vocab_size: 8192,
  hidden_size: 8,
  intermediate_size: 16,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  head_dim: 4,
  rms_norm_eps: 1e-5,
  max_position_embeddings: 256,
  tie_word_embeddings: true,
  eos_token_id: 2,
};

export interface StoredTensor {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/** Writes a safetensors file without any check. */
export function writeSafetensorsFile(file: string, tensors: readonly StoredTensor[]): void {
  const header: Record<string, unknown> = {};
  let end = 0;
  for (const { name, dtype, shape, bytes } of tensors) {
    header[name] = { dtype, shape, data_offsets: [end, (end += bytes.byteLength)] };
  }
  const json = JSON.stringify(header);
  const data = tensors.map(({ bytes }) => bytes);
  writeFileSync(file, safetensorsBytes(json.padEnd(Math.ceil(json.length / 8) * 8), data));
}

/** A safetensors file of any header text and data. */
export function safetensorsBytes(header: string, data: readonly Uint8Array[]): Buffer {
  const json = Buffer.from(header, 'utf8');
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.byteLength));
  return Buffer.concat([length, json, ...data]);
}

type FloatType = 'F32' | 'F16' | 'BF16';

/** Values as bytes of a float type; BF16 cuts, so give it values of at most 8 significant bits. */
export function encodeFloats(values: readonly number[], dtype: FloatType): Uint8Array {
  const exact = Float32Array.from(values);
  if (dtype === 'F32') return new Uint8Array(exact.buffer);
  const bits = new Uint32Array(exact.buffer);
  const half = Uint16Array.from(exact, (value, i) =>
    dtype === 'F16' ? floatToHalf(value) : (bits[i] ?? 0) >>> 16,
  );
  return new Uint8Array(half.buffer);
}

/** Values that every float type holds exactly: multiples of 1/64 in [-1, 1). */
export function tinyValues(length: number, seed: number): readonly number[] {
  const random = createRandom(seed);
  return Array.from({ length }, () => Math.floor(random.next() * 128) / 64 - 1);
}

/** Every tensor of a config.json, with values of `tinyValues` that depend on the tensor's place. */
export function tinyTensors(config: object, dtype: FloatType = 'F32'): readonly StoredTensor[] {
  const shapes = llama.tensorShapes(parseHfConfig(config, undefined));
  return Array.from(shapes, ([name, shape], i) => {
    const length = shape.reduce((product, size) => product * size, 1);
    return { name, dtype, shape, bytes: encodeFloats(tinyValues(length, i), dtype) };
  });
}

/** The tensors with other bytes for the one of this name. */
export function withBytes(
  tensors: readonly StoredTensor[],
  name: string,
  bytes: Uint8Array,
): readonly StoredTensor[] {
  const at = tensors.findIndex((tensor) => tensor.name === name);
  const tensor = defined(tensors[at], name);
  return tensors.with(at, { ...tensor, bytes });
}

/** Writes the JSON files of a checkpoint into `folder`. */
export function writeTinyJson(folder: string, config: object = tinyConfig): void {
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
  for (const name of ['tokenizer.json', 'tokenizer_config.json']) {
    copyFileSync(join(embeddedFolder('reader-mini'), name), join(folder, name));
  }
}

/** Writes a whole checkpoint into a new folder. */
export function tinyFolder(tensors: readonly StoredTensor[], config: object = tinyConfig): string {
  const folder = temporaryFolder();
  writeTinyJson(folder, config);
  writeSafetensorsFile(join(folder, 'model.safetensors'), tensors);
  return folder;
}
