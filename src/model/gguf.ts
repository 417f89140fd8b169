import { gguf, GGMLQuantizationType } from '@huggingface/gguf';
import type { GGUFParseOutput, GGUFTensorInfo } from '@huggingface/gguf';
import { z } from 'zod';
import { ReadonceError } from '../core/errors.ts';
import type { ModelConfig } from './config.ts';
import type { ModelFamily } from './families/family.ts';
import { familyOfGguf } from './families/registry.ts';
import { selectTensors } from './family-tensors.ts';
import { fileSize, parseChecked } from './files.ts';
import { ggufNumber, ggufTokenId } from './gguf-schema.ts';
import { parseGgufTokenizer } from './gguf-tokenizer.ts';
import { checkHeads, dimensionSchema } from './config-checks.ts';
import type { CheckpointSource, SourceTensor } from './source.ts';
import { encodedBytes } from './tensor-encodings.ts';
import type { TensorEncoding } from './tensor-encodings.ts';

/** GGUF tensor types that are decoded. */
const encodings: ReadonlyMap<GGMLQuantizationType, TensorEncoding> = new Map([
  [GGMLQuantizationType.F32, 'F32'],
  [GGMLQuantizationType.F16, 'F16'],
  [GGMLQuantizationType.BF16, 'BF16'],
  [GGMLQuantizationType.Q8_0, 'Q8_0'],
  [GGMLQuantizationType.Q4_0, 'Q4_0'],
  [GGMLQuantizationType.Q4_1, 'Q4_1'],
]);

const dimension = ggufNumber.pipe(dimensionSchema);
const positive = z.number().positive();

/** Metadata of one architecture, without its prefix. */
const architectureSchema = z.object({
  block_count: dimension,
  context_length: dimension,
  embedding_length: dimension,
  feed_forward_length: dimension,
  vocab_size: dimension.optional(),
  'attention.head_count': dimension,
  'attention.head_count_kv': dimension.optional(),
  'attention.key_length': dimension.optional(),
  'attention.value_length': dimension.optional(),
  'attention.layer_norm_rms_epsilon': positive,
  'rope.freq_base': positive.default(10_000),
  'rope.dimension_count': dimension.optional(),
  'rope.scaling.type': z.string().default('none'),
});

const generalSchema = z.object({
  'general.architecture': z.string(),
  'tokenizer.ggml.eos_token_id': ggufTokenId.optional(),
  'tokenizer.ggml.eot_token_id': ggufTokenId.optional(),
});

/** A tensor of the file, its shape outermost dimension first. */
interface FoundTensor {
  readonly info: GGUFTensorInfo;
  readonly shape: readonly number[];
}

/**
 * Reads a GGUF file: config, tokenizer and chat template from its metadata, and where its tensors
 * lie. Its values count as rounded to binary16.
 * @throws ReadonceError `invalid_argument` for a malformed file, `unsupported` for architectures,
 * tokenizers, tensor types and rope scalings that are not built
 */
export async function readGguf(file: string): Promise<CheckpointSource> {
  const parsed = await parseFile(file);
  const metadata: Readonly<Record<string, unknown>> = { ...parsed.metadata };
  const general = parseChecked(generalSchema, metadata, `metadata of ${file}`);
  const architecture = general['general.architecture'];
  const family = familyOfGguf(architecture);
  const { tokenizer, template, tokenCount } = parseGgufTokenizer(metadata, file);
  const endTokenIds = [
    general['tokenizer.ggml.eos_token_id'],
    general['tokenizer.ggml.eot_token_id'],
  ].filter((id) => id !== undefined);
  if (endTokenIds.length === 0) {
    throw new ReadonceError(
      'invalid_argument',
      `Expected tokenizer.ggml.eos_token_id in the metadata of ${file} but got none`,
    );
  }
  const tensors = new Map(parsed.tensorInfos.map((info) => [info.name, found(info)]));
  const config = parseConfig(
    parseChecked(architectureSchema, withoutPrefix(metadata, architecture), `metadata of ${file}`),
    { family, tensors, tokens: tokenCount, endTokenIds },
  );
  return {
    config,
    tokenizer,
    template,
    tensors: locateTensors(parsed, {
      file,
      family,
      config,
      tensors,
      sizeBytes: await fileSize(file),
    }),
    weightFiles: [file],
  };
}

async function parseFile(file: string): Promise<GGUFParseOutput> {
  let parsed: GGUFParseOutput;
  try {
    parsed = await gguf(file, { allowLocalFile: true });
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ReadonceError(
      'invalid_argument',
      `Expected a GGUF file for ${file} but got: ${reason}`,
      {
        cause: error,
      },
    );
  }
  if (!parsed.littleEndian) {
    throw new ReadonceError('unsupported', `Expected a little-endian GGUF file for ${file}`);
  }
  const names = new Set(parsed.tensorInfos.map(({ name }) => name));
  if (names.size !== parsed.tensorInfos.length) {
    throw new ReadonceError(
      'invalid_argument',
      `Expected each tensor once in ${file} but got repeats`,
    );
  }
  return parsed;
}

function found(info: GGUFTensorInfo): FoundTensor {
  return { info, shape: info.shape.map(Number).toReversed() };
}

function withoutPrefix(
  metadata: Readonly<Record<string, unknown>>,
  architecture: string,
): Readonly<Record<string, unknown>> {
  const prefix = `${architecture}.`;
  return Object.fromEntries(
    Object.entries(metadata)
      .filter(([key]) => key.startsWith(prefix))
      .map(([key, value]) => [key.slice(prefix.length), value]),
  );
}

function parseConfig(
  values: z.infer<typeof architectureSchema>,
  context: {
    readonly family: ModelFamily;
    readonly tensors: ReadonlyMap<string, FoundTensor>;
    readonly tokens: number;
    readonly endTokenIds: readonly number[];
  },
): ModelConfig {
  const { family, tensors, tokens, endTokenIds } = context;
  const queryHeads = values['attention.head_count'];
  const headDim = values['attention.key_length'] ?? values.embedding_length / queryHeads;
  requireEqual('rope.dimension_count', values['rope.dimension_count'], headDim);
  requireEqual('attention.value_length', values['attention.value_length'], headDim);
  if (values['rope.scaling.type'] !== 'none') {
    throw new ReadonceError(
      'unsupported',
      `Expected none for rope.scaling.type but got ${values['rope.scaling.type']}`,
    );
  }
  const has = (name: string): boolean => tensors.has(family.ggufName(name));
  return checkHeads({
    family: family.name,
    vocabSize: values.vocab_size ?? tokens,
    hiddenSize: values.embedding_length,
    layers: values.block_count,
    queryHeads,
    kvHeads: values['attention.head_count_kv'] ?? queryHeads,
    headDim,
    feedForwardSize: values.feed_forward_length,
    rmsEpsilon: values['attention.layer_norm_rms_epsilon'],
    contextLength: values.context_length,
    ropeTheta: values['rope.freq_base'],
    ropeScaling: null,
    tiedHead: !has('lm_head.weight'),
    attentionBias: has('model.layers.0.self_attn.q_proj.bias'),
    feedForwardBias: has('model.layers.0.mlp.gate_proj.bias'),
    endTokenIds,
  });
}

function requireEqual(key: string, value: number | undefined, headDim: number): void {
  if (value === undefined || value === headDim) return;
  throw new ReadonceError(
    'unsupported',
    `Expected the head dim ${headDim} for ${key} but got ${value}`,
  );
}

function locateTensors(
  parsed: GGUFParseOutput,
  context: {
    readonly file: string;
    readonly family: ModelFamily;
    readonly config: ModelConfig;
    readonly tensors: ReadonlyMap<string, FoundTensor>;
    readonly sizeBytes: number | undefined;
  },
): readonly SourceTensor[] {
  const { file, family, config, tensors, sizeBytes = 0 } = context;
  const hfNames = new Map(
    Array.from(family.tensorShapes(config).keys(), (name) => [family.ggufName(name), name]),
  );
  const byHfName = new Map(
    Array.from(tensors, ([name, tensor]) => [hfNames.get(name) ?? name, tensor]),
  );
  return selectTensors(config, byHfName, ({ info, shape }, name) => {
    const encoding = encodingOf(info);
    const size = encodedBytes(encoding, shape);
    const offsetBytes = Number(parsed.tensorDataOffset + info.offset);
    if (size === undefined || offsetBytes + size > sizeBytes) {
      throw new ReadonceError(
        'invalid_argument',
        `Expected whole blocks of ${encoding} inside the file for ${info.name} but got shape ` +
          `[${shape.join(', ')}] at byte ${offsetBytes} of ${sizeBytes} in ${file} (an incomplete copy?)`,
      );
    }
    return {
      name,
      shape,
      file,
      offsetBytes,
      sizeBytes: size,
      encoding,
      interleavedHeads: family.ggufInterleavedHeads(name, config),
      roundToHalf: true,
    };
  });
}

function encodingOf({ name, dtype }: GGUFTensorInfo): TensorEncoding {
  const encoding = encodings.get(dtype);
  if (encoding !== undefined) return encoding;
  const got = GGMLQuantizationType[dtype] ?? `type ${dtype}`;
  throw new ReadonceError(
    'unsupported',
    `Expected one of ${[...encodings.values()].join(', ')} for the type of ${name} but got ${got}`,
  );
}
