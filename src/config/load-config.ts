import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import type { ApiKey } from '../core/api-key.ts';
import { ReadonceError } from '../core/errors.ts';
import { checkApiKey, loadApiKeys } from './api-keys.ts';
import { userCacheFolder, type Environment } from './cache-folder.ts';
import {
  configKeys,
  configSchema,
  defaultConfig,
  environmentName,
  flagName,
  type Config,
  type ConfigKey,
} from './schema.ts';

const fileVariable = 'READONCE_CONFIG';
const urlVariable = 'READONCE_URL';
const keyVariable = 'READONCE_API_KEY';
const defaultUrl = 'http://127.0.0.1:8080';

/** Where settings come from. */
export interface ConfigSources {
  /** Flags as typed, by key. */
  readonly flags?: Readonly<Partial<Record<ConfigKey, string>>>;
  /** `--config`; wins over `READONCE_CONFIG`. */
  readonly file?: string | undefined;
  /** Defaults to the environment of this process, which nothing else reads. */
  readonly env?: Environment;
  readonly platform?: NodeJS.Platform;
}

/** A configuration and what is odd about it. */
export interface LoadedConfig {
  readonly config: Config;
  /** What a user should know although the server can start, one sentence each. */
  readonly warnings: readonly string[];
}

/** Values of one source, and what a user calls a key there. */
interface Layer {
  readonly values: Readonly<Record<string, unknown>>;
  nameOf(key: string): string;
}

/**
 * The configuration: defaults, overridden by the JSON file, by the environment, by flags. Folders
 * become absolute, relative to the working folder. Empty variables count as unset.
 * @throws ReadonceError `invalid_argument` naming the flag, variable or file key, what was expected
 * and what was found.
 */
export function loadConfig(sources: ConfigSources = {}): LoadedConfig {
  const env = sources.env ?? process.env;
  const file = sources.file ?? nonEmpty(env[fileVariable]);
  const layers = [
    ...(file === undefined ? [] : [fileLayer(file)]),
    environmentLayer(env),
    flagLayer(sources.flags ?? {}),
  ].map(checkLayer);
  const cache = userCacheFolder(env, sources.platform ?? process.platform);
  const merged = configSchema.parse(Object.assign({ ...defaultConfig(cache) }, ...layers));
  const { data, cache: folder, apiKeysFile, ...rest } = merged;
  const config = {
    ...rest,
    data: resolve(data),
    cache: resolve(folder),
    ...(apiKeysFile === undefined ? {} : { apiKeysFile: resolve(apiKeysFile) }),
  };
  checkHost(config);
  return { config, warnings: unknownVariables(env) };
}

/** Address of the server that client commands talk to: `--url`, `READONCE_URL` or the default. */
export function serverUrl(flag: string | undefined, env: Environment = process.env): string {
  const url = flag ?? nonEmpty(env[urlVariable]) ?? defaultUrl;
  const name = flag === undefined ? urlVariable : '--url';
  if (!URL.canParse(url) || !/^https?:$/.test(new URL(url).protocol)) {
    throw new ReadonceError('invalid_argument', expected(name, 'an http or https address', url));
  }
  return url;
}

/** The keys that open the server; none without `apiKeysFile`. @throws as `loadApiKeys` */
export function serverApiKeys({ apiKeysFile }: Config): readonly ApiKey[] {
  return apiKeysFile === undefined ? [] : loadApiKeys(apiKeysFile);
}

/** The key that client commands send: `--api-key`, READONCE_API_KEY or none. */
export function clientApiKey(
  flag: string | undefined,
  env: Environment = process.env,
): string | undefined {
  const key = flag ?? nonEmpty(env[keyVariable]);
  if (key === undefined) return undefined;
  return checkApiKey(flag === undefined ? keyVariable : '--api-key', key);
}

function fileLayer(path: string): Layer {
  let values: unknown;
  try {
    values = JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    const message = `Expected the file ${path} to be readable JSON but got: ${String(error)}`;
    throw new ReadonceError('invalid_argument', message, { cause: error });
  }
  if (typeof values !== 'object' || values === null || Array.isArray(values)) {
    throw new ReadonceError(
      'invalid_argument',
      expected(`the file ${path}`, 'one JSON object', values),
    );
  }
  return { values: { ...values }, nameOf: (key) => `"${key}" in ${path}` };
}

function environmentLayer(env: Environment): Layer {
  return textLayer((key) => nonEmpty(env[environmentName(key)]), environmentName);
}

function flagLayer(flags: Readonly<Partial<Record<ConfigKey, string>>>): Layer {
  return textLayer(
    (key) => flags[key],
    (key) => `--${flagName(key)}`,
  );
}

function textLayer(
  read: (key: ConfigKey) => string | undefined,
  nameOf: (key: string) => string,
): Layer {
  const values: Record<string, unknown> = {};
  for (const key of configKeys) {
    const value = read(key);
    if (value !== undefined) values[key] = fromText(key, value);
  }
  return { values, nameOf };
}

/** Text as the key's type; text that is none stays as it is, for the schema to refuse. */
function fromText(key: ConfigKey, value: string): unknown {
  const type = typeof defaultConfig('')[key];
  if (type === 'number') return /^-?\d+(\.\d+)?$/.test(value) ? Number(value) : value;
  if (type === 'boolean') return value === 'true' || (value === 'false' ? false : value);
  return value;
}

function checkLayer(layer: Layer): object {
  const parsed = configSchema.partial().safeParse(layer.values);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map((issue) => {
    if (issue.code === 'unrecognized_keys') {
      const keys = issue.keys.map((key) => layer.nameOf(key)).join(', ');
      return `Expected a known key but got ${keys}. Known keys: ${configKeys.join(', ')}.`;
    }
    const key = String(issue.path[0]);
    return expected(layer.nameOf(key), issue.message, layer.values[key]);
  });
  throw new ReadonceError('invalid_argument', problems.join('\n'));
}

/** Without access control only this machine may reach the server, unless someone says otherwise. */
function checkHost(config: Config): void {
  if (config.allowRemote || config.apiKeysFile !== undefined || isLoopback(config.host)) return;
  throw new ReadonceError(
    'invalid_argument',
    `${expected('host', 'a loopback address (127.0.0.1, ::1, localhost)', config.host)} ` +
      `Without API keys (--${flagName('apiKeysFile')}) anyone who can reach the server may read and ` +
      'delete its contexts; if that is wanted, say so ' +
      `with --${flagName('allowRemote')} or ${environmentName('allowRemote')}=true.`,
  );
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host);
}

/** A misspelt variable would silently do nothing. */
function unknownVariables(env: Environment): readonly string[] {
  const known = new Set([
    ...configKeys.map(environmentName),
    fileVariable,
    urlVariable,
    keyVariable,
  ]);
  return Object.keys(env)
    .filter((name) => name.startsWith('READONCE_') && !known.has(name))
    .map(
      (name) => `The variable ${name} is not known and does nothing; see docs/configuration.md.`,
    );
}

function expected(name: string, expectation: string, got: unknown): string {
  return `Expected ${name} to be ${expectation} but got ${JSON.stringify(got)}.`;
}

function nonEmpty(value: string | undefined): string | undefined {
  return value === '' ? undefined : value;
}
