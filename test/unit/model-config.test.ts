import { describe, expect, it } from 'vitest';
import { parseHfConfig } from '../../src/model/hf-config.ts';
import { tinyConfig } from '../support/tiny-checkpoint.ts';

const llama3 = {
  factor: 32,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 8192,
};

const llama3Scaling = {
  kind: 'llama3',
  factor: 32,
  lowFrequencyFactor: 1,
  highFrequencyFactor: 4,
  originalContextLength: 8192,
};

function parse(changes: object, generation?: object): ReturnType<typeof parseHfConfig> {
  return parseHfConfig({ ...tinyConfig, ...changes }, generation);
}

describe('config.json', () => {
  it('becomes a model config; keys that change nothing are left alone', () => {
    expect(parse({ torch_dtype: 'bfloat16', use_cache: true })).toEqual({
      family: 'llama',
      vocabSize: 8192,
      hiddenSize: 8,
      layers: 2,
      queryHeads: 2,
      kvHeads: 1,
      headDim: 4,
      feedForwardSize: 16,
      rmsEpsilon: 1e-5,
      contextLength: 256,
      ropeTheta: 10_000,
      ropeScaling: null,
      tiedHead: true,
      attentionBias: false,
      feedForwardBias: false,
      endTokenIds: [2],
    });
  });

  it('takes head dim, KV heads, tied head and biases by default as transformers does', () => {
    const { architectures, vocab_size, hidden_size, intermediate_size } = tinyConfig;
    const config = parseHfConfig(
      {
        architectures,
        vocab_size,
        hidden_size,
        intermediate_size,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        rms_norm_eps: 1e-6,
        max_position_embeddings: 16,
        eos_token_id: 0,
      },
      undefined,
    );
    expect(config).toMatchObject({
      headDim: 4,
      kvHeads: 2,
      tiedHead: false,
      attentionBias: false,
      feedForwardBias: false,
    });
  });

  it('keeps biases and an untied head', () => {
    const config = parse({ attention_bias: true, mlp_bias: true, tie_word_embeddings: false });
    expect(config).toMatchObject({ attentionBias: true, feedForwardBias: true, tiedHead: false });
  });

  it.each([
    ['rope_type', { rope_scaling: { rope_type: 'llama3', ...llama3 } }],
    ['the older type', { rope_scaling: { type: 'llama3', ...llama3 } }],
    ['rope_parameters', { rope_parameters: { rope_type: 'llama3', rope_theta: 7, ...llama3 } }],
  ])('reads llama3 rope scaling given by %s', (_, changes) => {
    expect(parse(changes).ropeScaling).toEqual(llama3Scaling);
  });

  it('takes rope_theta from rope_parameters before the top level', () => {
    expect(parse({ rope_theta: 5 }).ropeTheta).toBe(5);
    expect(parse({ rope_theta: 5, rope_parameters: { rope_theta: 7 } }).ropeTheta).toBe(7);
  });

  it('treats rope type default and null as no scaling', () => {
    expect(parse({ rope_parameters: { rope_type: 'default' } }).ropeScaling).toBeNull();
    expect(parse({ rope_scaling: null }).ropeScaling).toBeNull();
  });

  it.each([
    ['a list in config.json', { eos_token_id: [5, 6] }, undefined, [5, 6]],
    ['a number in generation_config.json', { eos_token_id: 5 }, { eos_token_id: 7 }, [7]],
    ['a list in generation_config.json', { eos_token_id: 5 }, { eos_token_id: [7, 8] }, [7, 8]],
    ['config.json if the other has none', { eos_token_id: 5 }, { do_sample: false }, [5]],
  ])('takes the end tokens from %s', (_, changes, generation, expected) => {
    expect(parse(changes, generation).endTokenIds).toEqual(expected);
  });

  it.each([
    ['another architecture', { architectures: ['MambaForCausalLM'] }, /MambaForCausalLM/],
    ['another activation', { hidden_act: 'gelu' }, /silu.*gelu/],
    ['another rope scaling', { rope_scaling: { type: 'yarn', factor: 4 } }, /llama3.*yarn/],
  ])('refuses %s as unsupported', (_, changes, message) => {
    expect(() => parse(changes)).toThrow(
      expect.objectContaining({ code: 'unsupported', message: expect.stringMatching(message) }),
    );
  });

  it.each([
    ['a dimension of 0', { hidden_size: 0 }, /hidden_size/],
    ['a dimension that is no integer', { num_hidden_layers: 1.5 }, /num_hidden_layers/],
    ['a dimension in words', { vocab_size: 'many' }, /vocab_size/],
    ['a missing dimension', { intermediate_size: undefined }, /intermediate_size/],
    ['KV heads that do not divide the heads', { num_key_value_heads: 3 }, /multiple of 3/],
    ['an odd head dim', { head_dim: 3 }, /even/],
    ['llama3 scaling with a part missing', { rope_scaling: { type: 'llama3' } }, /factor/],
    ['no end token', { eos_token_id: null }, /eos_token_id/],
  ])('refuses %s as an invalid argument', (_, changes, message) => {
    expect(() => parse(changes)).toThrow(
      expect.objectContaining({
        code: 'invalid_argument',
        message: expect.stringMatching(message),
      }),
    );
  });
});
