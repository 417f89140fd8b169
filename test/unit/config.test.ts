import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { userCacheFolder } from '../../src/config/cache-folder.ts';
import { loadConfig, serverUrl } from '../../src/config/load-config.ts';
import { configKeys, environmentName, flagName, type ConfigKey } from '../../src/config/schema.ts';
import { ReadonceError } from '../../src/core/errors.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'readonce-config-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function file(content: string): string {
  const path = join(folder, `config-${Math.random()}.json`);
  writeFileSync(path, content);
  return path;
}

describe('sources', () => {
  it('uses the documented defaults when nothing is said', () => {
    const { config, warnings } = loadConfig({ env: {}, platform: 'linux' });
    expect(config).toMatchObject({
      host: '127.0.0.1',
      port: 8080,
      model: 'reader',
      device: 'auto',
      deviceIndex: 0,
      devicePrecision: 'f16',
    });
    expect(config.maxBodyBytes).toBe(10 * 1024 * 1024);
    expect(config.shutdownMs).toBe(10_000);
    expect(config.data).toBe(resolve('data'));
    expect(warnings).toEqual([]);
  });

  it('lets flags win over the environment, and the environment over the file', () => {
    const path = file('{"port": 1, "model": "reader-mini", "logLevel": "debug"}');
    const { config } = loadConfig({
      file: path,
      env: { READONCE_PORT: '2', READONCE_LOG_LEVEL: 'warn' },
      flags: { port: '3' },
    });
    expect(config).toMatchObject({ port: 3, logLevel: 'warn', model: 'reader-mini' });
  });

  it('finds the file through READONCE_CONFIG, and prefers the flag', () => {
    const env = { READONCE_CONFIG: file('{"port": 11}') };
    expect(loadConfig({ env }).config.port).toBe(11);
    expect(loadConfig({ env, file: file('{"port": 12}') }).config.port).toBe(12);
  });

  it('counts an empty variable as unset', () => {
    expect(loadConfig({ env: { READONCE_PORT: '', READONCE_CONFIG: '' } }).config.port).toBe(8080);
  });

  it('reads every key from its variable and from its flag', () => {
    const texts: Readonly<Record<ConfigKey, string>> = {
      host: 'localhost',
      port: '81',
      allowRemote: 'true',
      apiKeysFile: resolve('/k'),
      data: resolve('/d'),
      storeMaxBytes: '2097152',
      model: 'reader-mini',
      device: 'cpu',
      deviceIndex: '3',
      devicePrecision: 'int8',
      decodeWeights: 'auto',
      cache: resolve('/c'),
      poolBytes: '2097153',
      method: 'none',
      keepRatio: '0.25',
      budget: 'uniform',
      precision: 'f32',
      maxBodyBytes: '2048',
      maxBodiesBytes: '4096',
      maxImportBytes: '1048577',
      maxQueuedIngests: '7',
      maxTenantIngests: '3',
      maxRunningQueries: '5',
      maxQueuedQueries: '8',
      maxTenantQueries: '4',
      maxQueryWaitMs: '10',
      maxSessions: '11',
      maxStalledMs: '12',
      shutdownMs: '9',
      logLevel: 'silent',
    };
    for (const key of configKeys) {
      const text = texts[key];
      const unset = loadConfig({ env: {} }).config[key];
      const fromEnv = loadConfig({ env: { [environmentName(key)]: text } }).config[key];
      const fromFlag = loadConfig({ env: {}, flags: { [key]: text } }).config[key];
      expect(String(fromEnv)).toBe(text);
      expect(fromEnv).not.toBe(unset);
      expect(fromFlag).toBe(fromEnv);
    }
  });

  it('spells keys for the environment and for flags', () => {
    expect(environmentName('maxBodyBytes')).toBe('READONCE_MAX_BODY_BYTES');
    expect(flagName('maxBodyBytes')).toBe('max-body-bytes');
  });
});

describe('bad values', () => {
  const cases: readonly [string, Parameters<typeof loadConfig>[0], RegExp][] = [
    ['text for a number', { env: { READONCE_PORT: 'abc' } }, /READONCE_PORT .*0 to 65535.*"abc"/],
    ['a number out of range', { env: {}, flags: { port: '65536' } }, /--port .*65535.* 65536\./],
    ['a fraction', { env: { READONCE_POOL_BYTES: '1e9' } }, /READONCE_POOL_BYTES .*"1e9"/],
    ['a word that is no choice', { env: { READONCE_DEVICE: 'tpu' } }, /auto, cpu, cuda .*"tpu"/],
    [
      'a word that is no boolean',
      { env: { READONCE_ALLOW_REMOTE: 'yes' } },
      /true or false .*"yes"/,
    ],
    ['a device index below 0', { env: { READONCE_DEVICE_INDEX: '-1' } }, /_INDEX .*0 to 63.* -1\./],
    ['a share of nothing', { env: { READONCE_KEEP_RATIO: '0' } }, /above 0 and at most 1 .* 0\./],
    ['an empty flag', { env: {}, flags: { model: '' } }, /--model .*""/],
  ];
  it.each(cases)('refuses %s, naming source, expectation and value', (_, sources, message) => {
    expect(() => loadConfig(sources)).toThrow(message);
    expect(() => loadConfig(sources)).toThrow(ReadonceError);
  });

  it('names key and file of a bad value in the file', () => {
    const path = file('{"port": "8080"}');
    expect(() => loadConfig({ file: path, env: {} })).toThrow(`"port" in ${path}`);
  });

  it('refuses a key that does not exist in the file', () => {
    expect(() => loadConfig({ file: file('{"prot": 1}'), env: {} })).toThrow(
      /"prot" in .*Known keys/,
    );
  });

  it.each(['{', '[]', 'null', '3'])('refuses the file content %s', (content) => {
    expect(() => loadConfig({ file: file(content), env: {} })).toThrow(/Expected .* JSON/i);
  });

  it('refuses a file that is not there, by name', () => {
    expect(() => loadConfig({ file: join(folder, 'none.json'), env: {} })).toThrow(/none\.json/);
  });

  it('reports every bad value of a source at once', () => {
    const env = { READONCE_PORT: 'x', READONCE_DEVICE: 'y' };
    expect(() => loadConfig({ env })).toThrow(/READONCE_PORT[^]*READONCE_DEVICE/);
  });

  it('warns about variables it does not know', () => {
    const { warnings } = loadConfig({ env: { READONCE_PROT: '1', READONCE_URL: 'http://x' } });
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toContain('READONCE_PROT');
  });
});

describe('host', () => {
  it.each(['127.0.0.1', '127.1.2.3', '::1', 'localhost'])('allows the loopback %s', (host) => {
    expect(loadConfig({ env: {}, flags: { host } }).config.host).toBe(host);
  });

  it.each(['0.0.0.0', '::', 'example.org', '192.168.1.2', '127.evil.example'])(
    'refuses %s unless remote access is allowed explicitly',
    (host) => {
      expect(() => loadConfig({ env: {}, flags: { host } })).toThrow(/READONCE_ALLOW_REMOTE=true/);
      const allowed = loadConfig({ env: { READONCE_ALLOW_REMOTE: 'true' }, flags: { host } });
      expect(allowed.config.host).toBe(host);
    },
  );
});

describe('cache folder', () => {
  it('lies in the user cache folder of the platform', () => {
    expect(userCacheFolder({ XDG_CACHE_HOME: '/x' }, 'linux')).toBe(join('/x', 'readonce'));
    expect(userCacheFolder({}, 'linux')).toBe(join(homedir(), '.cache', 'readonce'));
    expect(userCacheFolder({}, 'darwin')).toBe(join(homedir(), 'Library/Caches/readonce'));
    expect(userCacheFolder({ LOCALAPPDATA: '/l' }, 'win32')).toBe(join('/l', 'readonce'));
  });
});

describe('server address', () => {
  it('prefers the flag, then READONCE_URL, then the default', () => {
    const env = { READONCE_URL: 'http://b:2' };
    expect(serverUrl('http://a:1', env)).toBe('http://a:1');
    expect(serverUrl(undefined, env)).toBe('http://b:2');
    expect(serverUrl(undefined, {})).toBe('http://127.0.0.1:8080');
  });

  it('refuses what is no address', () => {
    expect(() => serverUrl('localhost:8080', {})).toThrow(/--url .*"localhost:8080"/);
    expect(() => serverUrl(undefined, { READONCE_URL: 'x' })).toThrow(/READONCE_URL/);
  });
});
