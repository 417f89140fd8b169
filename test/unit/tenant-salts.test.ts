import { expect, test } from 'vitest';
import { TenantSalts } from '../../src/service/tenant-salts.ts';

const salts = (byte: number) => new TenantSalts({ secret: () => new Uint8Array(32).fill(byte) });

test('a salt depends on tenant and secret, and on nothing else', () => {
  const all = [salts(1).saltOf('acme'), salts(1).saltOf('globex'), salts(2).saltOf('acme')];
  expect(new Set(all).size).toBe(3);
  for (const salt of all) expect(salt).toMatch(/^[0-9a-f]{64}$/);
  expect(salts(1).saltOf('acme')).toBe(all[0]);
});

test('without tenants there is no salt, and no secret is made', () => {
  const none = new TenantSalts({
    secret: () => {
      throw new Error('expected no secret to be asked for');
    },
  });
  expect(none.saltOf('')).toBe('');
});
