import type { ModelConfig } from './config.ts';

/** Cosines and sines of every position, row-major `[contextLength, headDim / 2]`. */
export interface RopeTables {
  readonly cos: Float32Array;
  readonly sin: Float32Array;
}

/**
 * Rotary frequencies `[headDim / 2]`, radians a token (RoFormer, arXiv 2104.09864, eq. 15; Llama
 * 3's scaling where the config asks for it). Rounded to float32 where transformers rounds, since
 * checkpoints were trained with those values.
 */
export function ropeFrequencies(config: ModelConfig): Float32Array {
  const half = config.headDim / 2;
  const frequencies = new Float32Array(half);
  for (let i = 0; i < half; i++) {
    const exponent = Math.fround((2 * i) / config.headDim);
    const frequency = Math.fround(1 / Math.fround(config.ropeTheta ** exponent));
    frequencies[i] = scaleFrequency(frequency, config);
  }
  return frequencies;
}

function scaleFrequency(frequency: number, config: ModelConfig): number {
  const scaling = config.ropeScaling;
  if (scaling === null) return frequency;
  const wavelength = (2 * Math.PI) / frequency;
  const longest = scaling.originalContextLength / scaling.lowFrequencyFactor;
  const shortest = scaling.originalContextLength / scaling.highFrequencyFactor;
  if (wavelength > longest) return frequency / scaling.factor;
  if (wavelength < shortest) return frequency;
  const smooth =
    (scaling.originalContextLength / wavelength - scaling.lowFrequencyFactor) /
    (scaling.highFrequencyFactor - scaling.lowFrequencyFactor);
  return ((1 - smooth) * frequency) / scaling.factor + smooth * frequency;
}

/** Tables for all positions of the window: `8 · contextLength · headDim / 2` bytes. */
export function ropeTables(config: ModelConfig): RopeTables {
  const frequencies = ropeFrequencies(config);
  const half = frequencies.length;
  const cos = new Float32Array(config.contextLength * half);
  const sin = new Float32Array(config.contextLength * half);
  for (let position = 0; position < config.contextLength; position++) {
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(position * (frequencies[i] as number));
      cos[position * half + i] = Math.cos(angle);
      sin[position * half + i] = Math.sin(angle);
    }
  }
  return { cos, sin };
}
