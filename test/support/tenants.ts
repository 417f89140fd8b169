import { hashApiKey, type ApiKey } from '../../src/core/api-key.ts';

/** Two tenants; the first has two keys. */
export const testKeys = {
  acme: 'acme-key-0123456789',
  acmeSpare: 'acme-spare-0123456789',
  globex: 'globex-key-0123456789',
} as const;

/** `testKeys` as a server is given them. */
export const testApiKeys: readonly ApiKey[] = [
  { sha256: hashApiKey(testKeys.acme), tenant: 'acme' },
  { sha256: hashApiKey(testKeys.acmeSpare), tenant: 'acme' },
  { sha256: hashApiKey(testKeys.globex), tenant: 'globex' },
];

/** The header that makes a request a tenant's. */
export function bearer(key: string): { readonly Authorization: string } {
  return { Authorization: `Bearer ${key}` };
}
