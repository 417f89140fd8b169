import { expect, test } from 'vitest';
import { contextId, familyId, type ContextIdentity } from '../../src/core/identity.ts';

const identity: ContextIdentity = {
  tenantSalt: 'tenant',
  modelFingerprint: 'sha256:00',
  prefixIds: Int32Array.of(1, 2),
  documentIds: Int32Array.of(3),
  compression: { method: 'kvzip', keepRatio: 0.3, budget: 'global', precision: 'f16' },
  methodVersion: 1,
  chunkTokens: 2000,
};

const { compression } = identity;

/** What contexts of one family may differ in. */
const within: readonly Partial<ContextIdentity>[] = [
  { compression: { ...compression, keepRatio: 0.2 } },
  { compression: { ...compression, precision: 'int8' } },
];

const across: readonly Partial<ContextIdentity>[] = [
  { tenantSalt: '' },
  { modelFingerprint: 'sha256:01' },
  { prefixIds: Int32Array.of(1), documentIds: Int32Array.of(2, 3) },
  { documentIds: Int32Array.of(4) },
  { compression: { ...compression, method: 'random' } },
  { compression: { ...compression, budget: 'uniform' } },
  { methodVersion: 2 },
  { chunkTokens: 1999 },
];

test('every part of an identity changes the id of the context', () => {
  const ids = [{}, ...within, ...across].map((part) => contextId({ ...identity, ...part }));
  expect(new Set(ids).size).toBe(ids.length);
  for (const id of ids) expect(id).toMatch(/^ctx_[0-9a-f]{40}$/);
});

test('keepRatio and precision leave the family as it is; every other part changes it', () => {
  const family = familyId(identity);
  for (const part of within) expect(familyId({ ...identity, ...part })).toBe(family);
  const others = across.map((part) => familyId({ ...identity, ...part }));
  expect(new Set([family, ...others]).size).toBe(1 + across.length);
  for (const id of [family, ...others]) expect(id).toMatch(/^fam_[0-9a-f]{40}$/);
});
