import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadApiKeys } from '../../src/config/api-keys.ts';
import { clientApiKey, loadConfig, serverApiKeys } from '../../src/config/load-config.ts';
import { ReadonceError } from '../../src/core/errors.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'readonce-keys-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let files = 0;
function file(content: unknown): string {
  const path = join(folder, `keys-${files++}.json`);
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content));
  return path;
}

/** What no message may repeat. */
const secret = 'secret-of-acme-0123';
const sha256 = createHash('sha256').update(secret).digest('hex');

function refusal(path: string): string {
  try {
    loadApiKeys(path);
  } catch (error) {
    expect(error).toBeInstanceOf(ReadonceError);
    // A log has the cause, too.
    const { message, cause } = error as ReadonceError;
    expect(`${message} ${String(cause)}`).not.toContain(secret);
    return message;
  }
  throw new Error('expected the keys to be refused');
}

describe('a file of keys', () => {
  it('has keys or their hashes, each with its tenant, several for one tenant', () => {
    const other = 'x'.repeat(16);
    const keys = loadApiKeys(
      file({
        keys: [
          { key: other, tenant: 'acme' },
          { sha256: sha256.toUpperCase(), tenant: 'acme' },
          { key: 'y'.repeat(256), tenant: 'Globex_2.0-b' },
        ],
      }),
    );
    expect(keys.map(({ tenant }) => tenant)).toEqual(['acme', 'acme', 'Globex_2.0-b']);
    expect(Buffer.from(keys[1]?.sha256 ?? []).toString('hex')).toBe(sha256);
    expect(JSON.stringify(keys)).not.toContain(other);
  });

  const key = secret;
  const tenant = 'acme';
  it.each<[string, unknown, RegExp]>([
    ['no JSON', `{"keys": [{"key": "${secret}" "tenant": "acme"}]}`, /to be JSON/],
    ['no object', [{ key, tenant }], /one JSON object of "keys"/],
    ['another field', { keys: [{ key, tenant }], [secret]: 1 }, /and nothing else/],
    ['no keys', {}, /keys in .*array of 1 to 1000/],
    ['an empty list', { keys: [] }, /keys in .*array of 1 to 1000/],
    [
      'too many keys',
      { keys: Array.from({ length: 1001 }, (_, i) => ({ key: `${secret}${i}`, tenant })) },
      /array of 1 to 1000/,
    ],
    ['a key alone', { keys: [secret] }, /keys\.0 in .*an object of "tenant"/],
    ['a key without a tenant', { keys: [{ key }] }, /keys\.0\.tenant .*1 to 64/],
    ['an empty tenant', { keys: [{ key, tenant: '' }] }, /keys\.0\.tenant .*1 to 64/],
    ['a long tenant', { keys: [{ key, tenant: 'a'.repeat(65) }] }, /keys\.0\.tenant/],
    ['a tenant with a space', { keys: [{ key, tenant: 'a b' }] }, /keys\.0\.tenant/],
    ['a short key', { keys: [{ key: secret.slice(0, 15), tenant }] }, /keys\.0\.key .*16 to 256/],
    ['a long key', { keys: [{ key: secret.repeat(20), tenant }] }, /keys\.0\.key/],
    ['a key with a space', { keys: [{ key: `${secret} x`, tenant }] }, /keys\.0\.key .*visible/],
    ['a hash that is none', { keys: [{ sha256: secret, tenant }] }, /keys\.0\.sha256 .*64 hex/],
    ['a key and its hash', { keys: [{ key, sha256, tenant }] }, /either "key" or "sha256"/],
    ['neither', { keys: [{ tenant }] }, /either "key" or "sha256"/],
    ['an unknown field', { keys: [{ key, tenant, [secret]: 1 }] }, /keys\.0 in .*nothing else/],
    [
      'one key twice',
      {
        keys: [
          { key, tenant },
          { sha256, tenant: 'b' },
        ],
      },
      /one twice/,
    ],
  ])('with %s is refused, saying where but not what', (_, content, message) => {
    expect(refusal(file(content))).toMatch(message);
  });

  it('that is not there, or is huge, is refused by name', () => {
    expect(() => loadApiKeys(join(folder, 'none.json'))).toThrow(/none\.json/);
    const path = file(JSON.stringify({ keys: [] }) + ' '.repeat(2 ** 20));
    expect(() => loadApiKeys(path)).toThrow(/1048576/);
  });
});

describe('a configuration with keys', () => {
  it('reads them from the file it names', () => {
    const apiKeysFile = file({ keys: [{ key: secret, tenant: 'acme' }] });
    const { config, warnings } = loadConfig({ env: { READONCE_API_KEYS_FILE: apiKeysFile } });
    expect(serverApiKeys(config)).toMatchObject([{ tenant: 'acme' }]);
    expect(warnings).toEqual([]);
    expect(serverApiKeys(loadConfig({ env: {} }).config)).toEqual([]);
  });

  it('may listen where other machines can reach it', () => {
    const { config } = loadConfig({ env: {}, flags: { host: '0.0.0.0', apiKeysFile: '/k' } });
    expect(config).toMatchObject({ host: '0.0.0.0', allowRemote: false });
  });
});

describe('the key that a client sends', () => {
  it('comes from the flag, then READONCE_API_KEY, then from nowhere', () => {
    const env = { READONCE_API_KEY: 'b'.repeat(16) };
    expect(clientApiKey('a'.repeat(16), env)).toBe('a'.repeat(16));
    expect(clientApiKey(undefined, env)).toBe('b'.repeat(16));
    expect(clientApiKey(undefined, { READONCE_API_KEY: '' })).toBeUndefined();
    expect(loadConfig({ env }).warnings).toEqual([]);
  });

  it('is refused without being repeated if it can be none', () => {
    for (const key of ['', 'short', `${secret}\n`]) {
      expect(() => clientApiKey(key, {})).toThrow(/--api-key .*16 to 256/);
      expect(() => clientApiKey(key, {})).not.toThrow(secret);
    }
    expect(() => clientApiKey(undefined, { READONCE_API_KEY: 'short' })).toThrow(
      /READONCE_API_KEY/,
    );
  });
});
