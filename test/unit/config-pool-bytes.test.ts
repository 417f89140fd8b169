import { expect, it } from 'vitest';
import { poolBytes } from '../../src/config/pool-bytes.ts';

it('takes what is configured, whatever is free', () => {
  expect(poolBytes(5 * 2 ** 20, 2 ** 40)).toBe(5 * 2 ** 20);
});

it('takes half of what is free when nothing is configured, and not too little', () => {
  expect(poolBytes(0, 8 * 2 ** 30)).toBe(4 * 2 ** 30);
  expect(poolBytes(0, 2 ** 20)).toBe(256 * 2 ** 20);
  expect(poolBytes(0)).toBeGreaterThanOrEqual(256 * 2 ** 20);
});
