import { z } from 'zod';

/*
 * A schema's error text is the expectation alone ("an integer from 0 to 65535"): the loader, which
 * knows where a value came from, writes the sentence around it.
 */
const integer = (min: number, max: number) => {
  const error = `an integer from ${min} to ${max}`;
  return z.int({ error }).min(min, { error }).max(max, { error });
};
const text = (error: string) => z.string({ error }).min(1, { error });
const choice = <const T extends readonly string[]>(values: T) =>
  z.enum(values, { error: `one of ${values.join(', ')}` });
const fractionError = 'a number above 0 and at most 1';
const fraction = z
  .number({ error: fractionError })
  .gt(0, { error: fractionError })
  .max(1, { error: fractionError });
const bytes = (min: number) => integer(min, Number.MAX_SAFE_INTEGER);

const mebibyte = 2 ** 20;

/**
 * Every setting of the server: one flat object, so that a key has one name in the file
 * (`maxBodyBytes`), one in the environment (`READONCE_MAX_BODY_BYTES`) and one as a flag
 * (`--max-body-bytes`). `docs/configuration.md` lists them. Sizes are bytes, durations
 * milliseconds.
 */
export const configSchema = z.strictObject({
  host: text('a host name or address').describe('Address to listen on.'),
  port: integer(0, 65_535).describe('Port to listen on; 0 takes a free one.'),
  allowRemote: z
    .boolean({ error: 'true or false' })
    .describe('Allow a host that other machines can reach although there are no API keys.'),
  apiKeysFile: text('a file')
    .optional()
    .describe('JSON file of API keys and their tenants; without it there is no access control.'),
  data: text('a folder').describe('Folder of the context store.'),
  storeMaxBytes: bytes(mebibyte).describe('Most bytes the context store may take on disk.'),
  model: text('a folder, a GGUF file, a hub id, reader or reader-mini').describe(
    'Model: a folder, a GGUF file, a hub id, or an embedded model (reader, reader-mini).',
  ),
  device: choice(['auto', 'cpu', 'cuda']).describe('Device that runs the model.'),
  deviceIndex: integer(0, 63).describe(
    'Which of several CUDA devices, as "readonce doctor" numbers them.',
  ),
  devicePrecision: choice(['f16', 'bf16', 'int8']).describe(
    'What a GPU computes and holds contexts in: f16, bf16, or int8 (bytes; computed in float16).',
  ),
  decodeWeights: choice(['f32', 'q4', 'auto']).describe(
    'What decode steps multiply by: float32 weights, the 4-bit blocks of a Q4_1 GGUF, or either.',
  ),
  cache: text('a folder').describe('Folder of converted weights and downloads.'),
  poolBytes: bytes(0).describe(
    'Most bytes of contexts kept loaded in memory; 0: half of what is free, on a GPU 0.6.',
  ),
  method: text('a scoring method').describe('Method of a PUT that names none.'),
  keepRatio: fraction.describe('Fraction of KV pairs kept by a PUT that names none.'),
  budget: text('a budget').describe('Budget of a PUT that names none.'),
  precision: text('a precision').describe('Stored element type of a PUT that names none.'),
  maxBodyBytes: integer(1024, 2 ** 30).describe('Largest request body.'),
  maxBodiesBytes: bytes(1024).describe('Most bytes of all request bodies at once.'),
  maxImportBytes: bytes(mebibyte).describe('Largest context file that is imported.'),
  maxQueuedIngests: integer(1, 100_000).describe('Ingestions that may run or wait.'),
  maxTenantIngests: integer(1, 100_000).describe('Of these, of one tenant.'),
  maxRunningQueries: integer(1, 64).describe('Queries that compute at once; others wait.'),
  maxQueuedQueries: integer(1, 100_000).describe('Queries that may run or wait.'),
  maxTenantQueries: integer(1, 100_000).describe('Of these, of one tenant.'),
  maxQueryWaitMs: integer(1, 3_600_000).describe('How long a query may wait for its turn.'),
  maxSessions: integer(0, 100_000).describe('Sessions held at once.'),
  maxStalledMs: integer(1, 3_600_000).describe(
    'How long a client may take nothing of an answer that waits for it.',
  ),
  shutdownMs: integer(0, 3_600_000).describe('How long running answers may take to finish.'),
  logLevel: choice(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']).describe(
    'Least severe log records written to stderr.',
  ),
});

/** A valid configuration; see `configSchema`. */
export type Config = Readonly<z.infer<typeof configSchema>>;

/** A key as the configuration file spells it. */
export type ConfigKey = keyof Config;

/** All keys, in the order of the documentation. */
export const configKeys: readonly ConfigKey[] = configSchema.keyof().options;

/** What holds where nothing else is said. */
export function defaultConfig(cacheFolder: string): Config {
  return {
    // Loopback: without API keys nobody else may reach the server.
    host: '127.0.0.1',
    port: 8080,
    allowRemote: false,
    data: './data',
    // About 1,000 documents of 2,000 tokens with the default model and keepRatio.
    storeMaxBytes: 10_240 * mebibyte,
    model: 'reader',
    device: 'auto',
    deviceIndex: 0,
    // Stored float16 contexts are then held as they are, without another rounding.
    devicePrecision: 'f16',
    // With eight running answers or more, four bits are slower.
    decodeWeights: 'f32',
    cache: cacheFolder,
    // The other half is for the model, for ingesting, and for the store's pages.
    poolBytes: 0,
    // The paper's method at a ratio where answers stay as good as with the full cache.
    method: 'kvzip',
    keepRatio: 0.3,
    budget: 'global',
    precision: 'f16',
    // A document that fills an embedded model's window is under 100 KiB.
    maxBodyBytes: 10 * mebibyte,
    // Two dozen of the largest.
    maxBodiesBytes: 256 * mebibyte,
    // Half the cache of 64 Ki tokens at 128 KiB a token, as models of 8B parameters have.
    maxImportBytes: 4096 * mebibyte,
    maxQueuedIngests: 64,
    // A quarter: three tenants may be at their bound, and a fourth still finds a place.
    maxTenantIngests: 16,
    // Past sixteen tokens a step, two cores gain nothing from more.
    maxRunningQueries: 16,
    maxQueuedQueries: 256,
    // A quarter, as above.
    maxTenantQueries: 64,
    // Proxies commonly give up after a minute.
    maxQueryWaitMs: 60_000,
    maxSessions: 256,
    // Longer than any network is silent that will go on.
    maxStalledMs: 60_000,
    shutdownMs: 10_000,
    logLevel: 'info',
  };
}

/** `maxBodyBytes` → `READONCE_MAX_BODY_BYTES` */
export function environmentName(key: string): string {
  return `READONCE_${key.replace(/[A-Z]/g, '_$&').toUpperCase()}`;
}

/** `maxBodyBytes` → `max-body-bytes` */
export function flagName(key: string): string {
  return key.replace(/[A-Z]/g, '-$&').toLowerCase();
}

/** One line of help. */
export function describeKey(key: ConfigKey): string {
  return configSchema.shape[key].description ?? key;
}
