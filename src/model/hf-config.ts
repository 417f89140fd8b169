import { z } from 'zod';
import { ReadonceError } from '../core/errors.ts';
import { checkHeads, dimensionSchema } from './config-checks.ts';
import type { Llama3RopeScaling, ModelConfig } from './config.ts';
import { familyOfArchitectures } from './families/registry.ts';
import { parseChecked } from './files.ts';

const positive = z.number().positive();
const tokenIds = z.union([z.int().nonnegative(), z.array(z.int().nonnegative())]);

const ropeSchema = z.object({
  rope_type: z.string().optional(),
  type: z.string().optional(),
  rope_theta: positive.optional(),
  factor: positive.optional(),
  low_freq_factor: positive.optional(),
  high_freq_factor: positive.optional(),
  original_max_position_embeddings: dimensionSchema.optional(),
});
type RopeSettings = z.infer<typeof ropeSchema>;

/** The keys that decide what is computed. Others are normal and left alone. */
const configSchema = z.object({
  architectures: z.array(z.string()).min(1),
  vocab_size: dimensionSchema,
  hidden_size: dimensionSchema,
  intermediate_size: dimensionSchema,
  num_hidden_layers: dimensionSchema,
  num_attention_heads: dimensionSchema,
  num_key_value_heads: dimensionSchema.nullish(),
  head_dim: dimensionSchema.nullish(),
  rms_norm_eps: positive,
  max_position_embeddings: dimensionSchema,
  rope_theta: positive.optional(),
  rope_scaling: ropeSchema.nullish(),
  rope_parameters: ropeSchema.nullish(),
  tie_word_embeddings: z.boolean().default(false),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
  hidden_act: z.string().default('silu'),
  eos_token_id: tokenIds.nullish(),
});

const generationSchema = z.object({ eos_token_id: tokenIds.nullish() });

/** What transformers takes where config.json says nothing. */
const defaultRopeTheta = 10_000;

/**
 * A model's config from Hugging Face's files.
 * @param config contents of config.json
 * @param generation contents of generation_config.json, whose end tokens win; undefined if absent
 * @throws ReadonceError `invalid_argument` for values that make no sense, `unsupported` for
 * architectures, rope scalings and activations that are not built
 */
export function parseHfConfig(config: unknown, generation: unknown): ModelConfig {
  const parsed = parseChecked(configSchema, config, 'config.json');
  const generated = parseChecked(generationSchema, generation ?? {}, 'generation_config.json');
  if (parsed.hidden_act !== 'silu') {
    throw new ReadonceError(
      'unsupported',
      `Expected silu for hidden_act but got ${parsed.hidden_act}`,
    );
  }
  const rope = parsed.rope_parameters ?? parsed.rope_scaling ?? {};
  return checkHeads({
    family: familyOfArchitectures(parsed.architectures).name,
    vocabSize: parsed.vocab_size,
    hiddenSize: parsed.hidden_size,
    layers: parsed.num_hidden_layers,
    queryHeads: parsed.num_attention_heads,
    kvHeads: parsed.num_key_value_heads ?? parsed.num_attention_heads,
    headDim: parsed.head_dim ?? parsed.hidden_size / parsed.num_attention_heads,
    feedForwardSize: parsed.intermediate_size,
    rmsEpsilon: parsed.rms_norm_eps,
    contextLength: parsed.max_position_embeddings,
    ropeTheta: rope.rope_theta ?? parsed.rope_theta ?? defaultRopeTheta,
    ropeScaling: parseRopeScaling(rope),
    tiedHead: parsed.tie_word_embeddings,
    attentionBias: parsed.attention_bias,
    feedForwardBias: parsed.mlp_bias,
    endTokenIds: endTokens(generated.eos_token_id ?? parsed.eos_token_id),
  });
}

function parseRopeScaling(rope: RopeSettings): Llama3RopeScaling | null {
  const kind = rope.rope_type ?? rope.type ?? 'default';
  if (kind === 'default') return null;
  if (kind !== 'llama3') {
    throw new ReadonceError(
      'unsupported',
      `Expected default or llama3 for the rope scaling but got ${kind}`,
    );
  }
  const { factor, low_freq_factor: low, high_freq_factor: high } = rope;
  const original = rope.original_max_position_embeddings;
  if (factor === undefined || low === undefined || high === undefined || original === undefined) {
    throw new ReadonceError(
      'invalid_argument',
      'Expected factor, low_freq_factor, high_freq_factor and original_max_position_embeddings ' +
        'for llama3 rope scaling but got only some of them',
    );
  }
  if (high <= low) {
    throw new ReadonceError(
      'invalid_argument',
      `Expected more than low_freq_factor ${low} for high_freq_factor but got ${high}`,
    );
  }
  return {
    kind,
    factor,
    lowFrequencyFactor: low,
    highFrequencyFactor: high,
    originalContextLength: original,
  };
}

function endTokens(value: number | readonly number[] | null | undefined): readonly number[] {
  const ids = typeof value === 'number' ? [value] : (value ?? []);
  if (ids.length > 0) return ids;
  throw new ReadonceError(
    'invalid_argument',
    'Expected eos_token_id in generation_config.json or config.json but got none',
  );
}
