import { createClient, type ReadonceClient } from '../client/client.ts';
import { clientApiKey, serverUrl } from '../config/load-config.ts';
import { ReadonceError } from '../core/errors.ts';
import { UsageError } from './command.ts';

/** The arguments of every command that talks to a running server. */
export const remoteArgs = {
  url: {
    type: 'string',
    description: 'Address of the server (READONCE_URL, else http://127.0.0.1:8080)',
    valueHint: 'url',
  },
  'api-key': {
    type: 'string',
    description: 'Key, if it wants one; others on this machine see it, unlike READONCE_API_KEY',
    valueHint: 'key',
  },
} as const;

/** What was given of `remoteArgs`. */
export interface RemoteArgs {
  readonly url?: string | undefined;
  readonly 'api-key'?: string | undefined;
}

/** The `--json` argument. */
export const jsonArg = {
  type: 'boolean',
  description: "Print the server's JSON instead of text",
} as const;

/** A client of the server that the arguments or the environment name. @throws UsageError */
export function connect(args: RemoteArgs): ReadonceClient {
  const baseUrl = asUsage(() => serverUrl(args.url));
  const apiKey = asUsage(() => clientApiKey(args['api-key']));
  return createClient({ baseUrl, ...given({ apiKey }) });
}

/** Makes a configuration error of `read` a usage error. */
export function asUsage<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof ReadonceError) || error.code !== 'invalid_argument') throw error;
    throw new UsageError(error.message, { cause: error });
  }
}

/** A number given as a flag; what the number means is the server's to check. @throws UsageError */
export function numberFlag(name: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (text.trim() === '' || !Number.isFinite(value)) {
    throw new UsageError(`Expected --${name} to be a number but got ${JSON.stringify(text)}.`);
  }
  return value;
}

/** Leaves out what is undefined, so that the server's defaults hold. */
export function given<T extends object>(fields: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  const result: { [K in keyof T]?: Exclude<T[K], undefined> } = {};
  for (const key in fields) {
    const value = fields[key];
    if (isDefined(value)) result[key] = value;
  }
  return result;
}

function isDefined<T>(value: T): value is Exclude<T, undefined> {
  return value !== undefined;
}
