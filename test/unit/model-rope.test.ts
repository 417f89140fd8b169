import { describe, expect, it } from 'vitest';
import { parseHfConfig } from '../../src/model/hf-config.ts';
import { ropeFrequencies, ropeTables } from '../../src/model/rope.ts';
import { tinyConfig } from '../support/tiny-checkpoint.ts';

/** Llama 3.2 1B. */
const config = parseHfConfig(
  {
    ...tinyConfig,
    hidden_size: 64,
    num_attention_heads: 1,
    head_dim: 64,
    rope_theta: 500_000,
    rope_scaling: {
      rope_type: 'llama3',
      factor: 32,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    },
  },
  undefined,
);

// Computed in float64 from Llama 3's published formula: kept below wavelengths of 2,048 tokens,
// divided by 32 above 8,192, in between a mixture.
const expected: readonly (readonly [index: number, frequency: number])[] = [
  [0, 1],
  [1, 0.663601238],
  [8, 0.0376060309],
  [14, 0.00321144599],
  [15, 0.00129054793],
  [16, 0.000429556797],
  [17, 9.7082878e-5],
  [18, 1.94616382e-5],
  [31, 9.41830673e-8],
];

describe('rotary frequencies', () => {
  it.each(expected)('of Llama 3.2 1B at %i are as its scaling says', (index, frequency) => {
    const relative = (ropeFrequencies(config)[index] ?? NaN) / frequency - 1;
    // Three float32 roundings, one of them magnified by the mixture.
    expect(Math.abs(relative)).toBeLessThan(1e-5);
  });

  it('without scaling are powers of theta', () => {
    const plain = ropeFrequencies({ ...config, ropeScaling: null });
    for (const [i, frequency] of plain.entries()) {
      expect(Math.abs(frequency * 500_000 ** (i / 32) - 1)).toBeLessThan(1e-6);
    }
  });

  it('fill tables of cosines and sines by position', () => {
    const { cos, sin } = ropeTables(config);
    expect(cos).toHaveLength(config.contextLength * 32);
    const at = 5 * 32 + 1;
    // The angle is rounded to float32 first.
    expect(Math.abs((cos[at] ?? NaN) - Math.cos(5 * 0.663601238))).toBeLessThan(1e-6);
    expect(Math.abs((sin[at] ?? NaN) - Math.sin(5 * 0.663601238))).toBeLessThan(1e-6);
  });
});
