import { describe, expect, it } from 'vitest';
import { AssertionError } from '../../src/core/assert.ts';
import { createRandom } from '../../src/core/random.ts';
import { floatLogits } from '../../src/runtime/float-logits.ts';
import { createSampler } from '../../src/engine/sampling.ts';
import type { SamplerOptions } from '../../src/engine/sampling.ts';

const plain: SamplerOptions = { temperature: 1, topK: 0, topP: 1, seed: 1 };

/** Logits whose softmax is proportional to `weights`. */
function logitsOf(weights: readonly number[]): Float32Array {
  return Float32Array.from(weights, Math.log);
}

function drawMany(options: Partial<SamplerOptions>, logits: Float32Array, count = 4000): number[] {
  const sampler = createSampler({ ...plain, ...options });
  return Array.from({ length: count }, () => sampler.next(floatLogits(logits)));
}

function frequencies(ids: readonly number[], vocabSize: number): number[] {
  const counts = Array.from({ length: vocabSize }, () => 0);
  for (const id of ids) counts[id] = (counts[id] ?? 0) + 1;
  return counts.map((count) => count / ids.length);
}

function drawn(options: Partial<SamplerOptions>, logits: Float32Array): number[] {
  return [...new Set(drawMany(options, logits))].sort((a, b) => a - b);
}

/** Of 4,000 draws a frequency strays by more than 4.5 standard deviations once in 10^5. */
function expectFrequencies(actual: readonly number[], expected: readonly number[]): void {
  expected.forEach((probability, id) => {
    const deviation = Math.sqrt((probability * (1 - probability)) / 4000);
    expect(Math.abs((actual[id] ?? 0) - probability)).toBeLessThanOrEqual(4.5 * deviation);
  });
}

describe('greedy sampling', () => {
  it('takes the likeliest token whatever the other options', () => {
    const sampler = createSampler({ temperature: 0, topK: 5, topP: 0.1, seed: 9 });
    expect(sampler.next(floatLogits(Float32Array.of(-3, 0.5, 7, 6.9)))).toBe(2);
  });

  it('asks for no more than the likeliest token, which a device may keep the others from', () => {
    const values = () => {
      throw new Error('copied');
    };
    const sampler = createSampler({ ...plain, temperature: 0 });
    expect(sampler.next({ argmax: () => 7, values })).toBe(7);
  });

  it('takes the lowest id of tied tokens', () => {
    const sampler = createSampler({ ...plain, temperature: 0 });
    expect(sampler.next(floatLogits(Float32Array.of(1, 4, 4, 4)))).toBe(1);
  });

  it('refuses logits that are not numbers', () => {
    const sampler = createSampler({ ...plain, temperature: 0 });
    expect(() => sampler.next(floatLogits(new Float32Array(4).fill(NaN)))).toThrow(AssertionError);
  });
});

describe('random sampling', () => {
  const weights = [0.5, 0.05, 0.3, 0.15];

  it('draws tokens as often as the softmax says', () => {
    expectFrequencies(frequencies(drawMany({}, logitsOf(weights)), 4), weights);
  });

  it('scales the logits by the temperature', () => {
    const powers = weights.map((weight) => weight ** (1 / 0.5));
    const total = powers.reduce((sum, power) => sum + power, 0);
    expectFrequencies(
      frequencies(drawMany({ temperature: 0.5 }, logitsOf(weights)), 4),
      powers.map((power) => power / total),
    );
  });

  it('is greedy as the temperature goes to 0', () => {
    expect(drawn({ temperature: 1e-300 }, Float32Array.of(1, 2, 2.001, -50))).toEqual([2]);
  });

  it('gives the same tokens for the same seed and others for another', () => {
    const logits = logitsOf(weights);
    expect(drawMany({ seed: 7 }, logits, 50)).toEqual(drawMany({ seed: 7 }, logits, 50));
    expect(drawMany({ seed: 7 }, logits, 50)).not.toEqual(drawMany({ seed: 8 }, logits, 50));
    const large = { seed: 7 + 2 ** 32 };
    expect(drawMany({ seed: 7 }, logits, 50)).not.toEqual(drawMany(large, logits, 50));
  });

  it('never draws a token of weight 0', () => {
    expect(drawn({}, Float32Array.of(-Infinity, 0, -Infinity, -1000))).toEqual([1]);
    expect(drawn({ topK: 4, topP: 0.99 }, Float32Array.of(-Infinity, 0, -1000))).toEqual([1]);
  });

  it('refuses logits that are not numbers', () => {
    const logits = Float32Array.of(0, NaN, 1);
    expect(() => createSampler(plain).next(floatLogits(logits))).toThrow(AssertionError);
  });

  it.each([{ temperature: -1 }, { topK: -1 }, { topK: 1.5 }, { topP: -0.1 }, { topP: 1.1 }])(
    'refuses %o',
    (options) => {
      expect(() => createSampler({ ...plain, ...options })).toThrow(AssertionError);
    },
  );
});

describe('top-k', () => {
  const weights = [0.1, 0.4, 0.1, 0.3, 0.1];

  it('draws from the k likeliest tokens, renormalised', () => {
    const ids = drawMany({ topK: 2 }, logitsOf(weights));
    expectFrequencies(frequencies(ids, 5), [0, 4 / 7, 0, 3 / 7, 0]);
  });

  it('gives ties at the cut to the lowest ids', () => {
    expect(drawn({ topK: 3 }, logitsOf(weights))).toEqual([0, 1, 3]);
  });

  it('limits nothing when k is 0 or reaches the vocabulary', () => {
    const logits = logitsOf(weights);
    expect(drawMany({ topK: 5 }, logits, 100)).toEqual(drawMany({ topK: 0 }, logits, 100));
    expect(drawMany({ topK: 99 }, logits, 100)).toEqual(drawMany({ topK: 0 }, logits, 100));
  });
});

describe('top-p', () => {
  const weights = [0.05, 0.5, 0.15, 0.3];

  it('draws from the fewest likeliest tokens that reach p, renormalised', () => {
    const ids = drawMany({ topP: 0.6 }, logitsOf(weights));
    expectFrequencies(frequencies(ids, 4), [0, 5 / 8, 0, 3 / 8]);
  });

  it('includes the token that crosses p and always one', () => {
    expect(drawn({ topP: 0.81 }, logitsOf(weights))).toEqual([1, 2, 3]);
    expect(drawn({ topP: 0.4 }, logitsOf(weights))).toEqual([1]);
    expect(drawn({ topP: 0 }, logitsOf(weights))).toEqual([1]);
  });

  it('applies to what top-k left', () => {
    // The two likeliest hold 5/8 and 3/8 of what is left: 0.6 needs one, 0.63 both.
    expect(drawn({ topK: 2, topP: 0.6 }, logitsOf(weights))).toEqual([1]);
    expect(drawn({ topK: 2, topP: 0.63 }, logitsOf(weights))).toEqual([1, 3]);
  });

  it('keeps exactly the set that a full sort gives, over a large vocabulary', () => {
    const random = createRandom(3);
    const logits = Float32Array.from({ length: 1000 }, () => Math.round(20 * random.next()) / 2);
    const exponentials = Array.from(logits, (logit, id) => ({ id, weight: Math.exp(logit - 10) }));
    exponentials.sort((a, b) => b.weight - a.weight || a.id - b.id);
    const total = exponentials.reduce((sum, { weight }) => sum + weight, 0);
    let cumulative = 0;
    const nucleus = exponentials.filter(({ weight }) => {
      const inside = cumulative < 0.3 * total;
      cumulative += weight;
      return inside;
    });
    const ids = new Set(nucleus.map(({ id }) => id));
    const seen = new Set(drawMany({ topP: 0.3 }, logits, 4000));
    expect([...seen].filter((id) => !ids.has(id))).toEqual([]);
    // None of about 35 tokens has less than 1/50: 4,000 draws miss one of them once in 10^33.
    expect(seen.size).toBe(ids.size);
  });
});
