import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ModelConfig } from '../../src/model/config.ts';
import { embeddedFolder } from '../../src/model/embedded.ts';
import { llama } from '../../src/model/families/llama.ts';
import { parseTokenizerJson } from '../../src/model/tokenizer-definition.ts';

/** Tensor types as GGUF numbers them. */
export const ggufTypes = { F32: 0, F16: 1, Q4_0: 2, Q4_1: 3, Q8_0: 8, Q4_K: 12, BF16: 30 } as const;

export type GgufValue =
  | { readonly type: 'u32'; readonly value: number }
  | { readonly type: 'f32'; readonly value: number }
  | { readonly type: 'string'; readonly value: string }
  | { readonly type: 'strings'; readonly value: readonly string[] }
  | { readonly type: 'i32s'; readonly value: readonly number[] };

export interface GgufTensor {
  /** GGUF name. */
  readonly name: string;
  /** Outermost dimension first; the file has it the other way round. */
  readonly shape: readonly number[];
  readonly type: number;
  readonly bytes: Uint8Array;
}

const alignment = 32;
const valueTypes = { u32: 4, i32: 5, f32: 6, string: 8, array: 9 } as const;

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value, 'utf8');
  return Buffer.concat([u64(bytes.byteLength), bytes]);
}

function encodeValue(entry: GgufValue): Buffer {
  switch (entry.type) {
    case 'u32':
      return Buffer.concat([u32(valueTypes.u32), u32(entry.value)]);
    case 'f32': {
      const bytes = Buffer.alloc(4);
      bytes.writeFloatLE(entry.value);
      return Buffer.concat([u32(valueTypes.f32), bytes]);
    }
    case 'string':
      return Buffer.concat([u32(valueTypes.string), text(entry.value)]);
    case 'strings':
      return Buffer.concat([
        u32(valueTypes.array),
        u32(valueTypes.string),
        u64(entry.value.length),
        ...entry.value.map(text),
      ]);
    default:
      return Buffer.concat([
        u32(valueTypes.array),
        u32(valueTypes.i32),
        u64(entry.value.length),
        ...entry.value.map(u32),
      ]);
  }
}

function padded(bytes: Uint8Array): Buffer {
  return Buffer.concat([bytes], Math.ceil(bytes.byteLength / alignment) * alignment);
}

/** Writes a GGUF file (version 3). */
export function writeGgufFile(
  file: string,
  metadata: Readonly<Record<string, GgufValue>>,
  tensors: readonly GgufTensor[],
): void {
  const entries = Object.entries(metadata);
  const parts = [Buffer.from('GGUF'), u32(3), u64(tensors.length), u64(entries.length)];
  for (const [key, value] of entries) parts.push(text(key), encodeValue(value));
  let offset = 0;
  for (const { name, shape, type, bytes } of tensors) {
    const dimensions = shape.toReversed().map(u64);
    parts.push(text(name), u32(shape.length), ...dimensions, u32(type), u64(offset));
    offset += padded(bytes).byteLength;
  }
  const header = padded(Buffer.concat(parts));
  writeFileSync(file, Buffer.concat([header, ...tensors.map(({ bytes }) => padded(bytes))]));
}

/**
 * Metadata of a one-layer model, 32 wide, with two heads and one KV head, and the first tokens of
 * `reader-mini`'s vocabulary.
 */
export function tinyGgufMetadata(tokenCount = 8192): Record<string, GgufValue> {
  const folder = embeddedFolder('reader-mini');
  const readJson = (name: string): unknown => JSON.parse(readFileSync(join(folder, name), 'utf8'));
  const definition = parseTokenizerJson(readJson('tokenizer.json'));
  const { chat_template: template } = readJson('tokenizer_config.json') as {
    chat_template: string;
  };
  const tokens = Object.entries(definition.vocab)
    .toSorted(([, a], [, b]) => a - b)
    .slice(0, tokenCount);
  const kept = new Set(tokens.map(([token]) => token));
  const control = new Set(definition.addedTokens.map(({ id }) => id));
  return {
    'general.architecture': { type: 'string', value: 'llama' },
    'llama.block_count': { type: 'u32', value: 1 },
    'llama.context_length': { type: 'u32', value: 256 },
    'llama.embedding_length': { type: 'u32', value: 32 },
    'llama.feed_forward_length': { type: 'u32', value: 32 },
    'llama.attention.head_count': { type: 'u32', value: 2 },
    'llama.attention.head_count_kv': { type: 'u32', value: 1 },
    'llama.attention.layer_norm_rms_epsilon': { type: 'f32', value: 1e-5 },
    'llama.rope.freq_base': { type: 'f32', value: 10_000 },
    'llama.rope.dimension_count': { type: 'u32', value: 16 },
    'tokenizer.ggml.model': { type: 'string', value: 'gpt2' },
    'tokenizer.ggml.pre': { type: 'string', value: 'gpt-2' },
    'tokenizer.ggml.tokens': { type: 'strings', value: tokens.map(([token]) => token) },
    'tokenizer.ggml.token_type': {
      type: 'i32s',
      value: tokens.map(([, id]) => (control.has(id) ? 3 : 1)),
    },
    'tokenizer.ggml.merges': {
      type: 'strings',
      value: definition.merges
        .filter((pair) => kept.has(pair.join('')))
        .map((pair) => pair.join(' ')),
    },
    'tokenizer.ggml.eos_token_id': { type: 'u32', value: 2 },
    'tokenizer.chat_template': { type: 'string', value: template },
  };
}

/** Values of zero for every tensor of a config, by GGUF name. */
export function zeroGgufTensors(config: ModelConfig): readonly GgufTensor[] {
  return Array.from(llama.tensorShapes(config), ([name, shape]) => ({
    name: llama.ggufName(name),
    shape,
    type: ggufTypes.F32,
    bytes: new Uint8Array(4 * shape.reduce((product, size) => product * size, 1)),
  }));
}
