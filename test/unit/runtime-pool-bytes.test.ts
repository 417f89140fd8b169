import { expect, it } from 'vitest';
import { hostPoolBytes } from '../../src/runtime/host-pool-bytes.ts';

it('is half of what is free, and not too little', () => {
  expect(hostPoolBytes(8 * 2 ** 30)).toBe(4 * 2 ** 30);
  expect(hostPoolBytes(2 ** 20)).toBe(256 * 2 ** 20);
  expect(hostPoolBytes()).toBeGreaterThanOrEqual(256 * 2 ** 20);
});
