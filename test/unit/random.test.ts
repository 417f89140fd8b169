import { describe, expect, it } from 'vitest';
import { argmax } from '../../src/core/argmax.ts';
import { createRandom } from '../../src/core/random.ts';

describe('createRandom', () => {
  it('gives the same numbers for the same seed on every machine', () => {
    const random = createRandom(42);
    const words = Array.from({ length: 4 }, () => random.nextUint32());
    // From a second implementation of xoshiro128** and its seeding, in another language.
    expect(words).toEqual([92200766, 2412254880, 4235012410, 3021587895]);
  });

  it('uses all 53 bits of a seed', () => {
    const first = [0, 1, 2 ** 31, 2 ** 32, 2 ** 32 + 1, 2 ** 52].map((seed) =>
      createRandom(seed).nextUint32(),
    );
    expect(new Set(first).size).toBe(first.length);
  });

  it('is uniform in [0, 1)', () => {
    const random = createRandom(5);
    const bins = Array.from({ length: 16 }, () => 0);
    for (let i = 0; i < 16_000; i++) {
      const value = random.next();
      expect(value >= 0 && value < 1).toBe(true);
      const bin = Math.floor(value * 16);
      bins[bin] = (bins[bin] ?? 0) + 1;
    }
    // Each bin has 1,000 ± 31; five standard deviations are passed once in 10^5.
    for (const count of bins) expect(Math.abs(count - 1000)).toBeLessThanOrEqual(155);
  });
});

describe('argmax', () => {
  it('gives the lowest index of the largest value', () => {
    expect(argmax(Float32Array.of(1, 3, 2, 3))).toBe(1);
  });

  it('counts from the start of the range', () => {
    expect(argmax(Float64Array.of(9, 1, 3, 2, 8), 1, 4)).toBe(1);
  });
});
