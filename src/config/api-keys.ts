import { readFileSync, statSync } from 'node:fs';
import { z } from 'zod';
import { hashApiKey, type ApiKey } from '../core/api-key.ts';
import { ReadonceError } from '../core/errors.ts';

/** Every request is compared with all of them. */
const maxKeys = 1000;
/** As many of the longest keys and tenants take less than half of it. */
const maxFileBytes = 2 ** 20;

const keyError = 'text of 16 to 256 visible ASCII characters';
const sha256Error = 'a SHA-256 as 64 hex digits';
const tenantError = 'text of 1 to 64 letters, digits, ".", "_" or "-"';
const listError = `an array of 1 to ${maxKeys} keys`;
const entryError = 'an object of "tenant", and either "key" or "sha256", and nothing else';
const fileError = 'one JSON object of "keys", and nothing else';

const keySchema = z.string({ error: keyError }).regex(/^[!-~]{16,256}$/, { error: keyError });
const entrySchema = z
  .strictObject(
    {
      key: keySchema.optional(),
      sha256: z
        .string({ error: sha256Error })
        .regex(/^[0-9a-fA-F]{64}$/, { error: sha256Error })
        .optional(),
      tenant: z
        .string({ error: tenantError })
        .regex(/^[A-Za-z0-9._-]{1,64}$/, { error: tenantError }),
    },
    { error: entryError },
  )
  .refine(({ key, sha256 }) => (key === undefined) !== (sha256 === undefined), {
    error: entryError,
  });
const fileSchema = z.strictObject(
  {
    keys: z
      .array(entrySchema, { error: listError })
      .min(1, { error: listError })
      .max(maxKeys, { error: listError }),
  },
  { error: fileError },
);

/**
 * The API keys of a file: `{ "keys": [{ "key": "…", "tenant": "acme" }] }`, or `sha256` in place of
 * a key. No message says anything of what is in the file but where it is wrong.
 * @throws ReadonceError `invalid_argument`
 */
export function loadApiKeys(path: string): readonly ApiKey[] {
  const parsed = fileSchema.safeParse(readJson(path));
  if (!parsed.success) {
    const problems = parsed.error.issues.map((issue) => {
      const where =
        issue.path.length === 0 ? path : `${issue.path.map(String).join('.')} in ${path}`;
      return `Expected ${where} to be ${issue.message} but got something else.`;
    });
    throw new ReadonceError('invalid_argument', problems.slice(0, 3).join('\n'));
  }
  const keys = parsed.data.keys.map(({ key, sha256, tenant }) => ({
    sha256: key === undefined ? Buffer.from(sha256 ?? '', 'hex') : hashApiKey(key),
    tenant,
  }));
  const unlike = new Set(keys.map(({ sha256 }) => Buffer.from(sha256).toString('hex')));
  if (unlike.size === keys.length) return keys;
  throw new ReadonceError(
    'invalid_argument',
    `Expected the keys in ${path} to differ from each other but got one twice.`,
  );
}

/** A key that a client sends. @throws ReadonceError `invalid_argument`, which does not repeat it */
export function checkApiKey(name: string, key: string): string {
  if (keySchema.safeParse(key).success) return key;
  throw new ReadonceError(
    'invalid_argument',
    `Expected ${name} to be ${keyError} but got something else.`,
  );
}

function readJson(path: string): unknown {
  let text: string;
  try {
    const { size } = statSync(path);
    if (size > maxFileBytes) throw new Error(`${size} bytes, more than ${maxFileBytes}`);
    text = readFileSync(path, 'utf8');
  } catch (error) {
    const message = `Expected the file ${path} to be readable but got: ${String(error)}`;
    throw new ReadonceError('invalid_argument', message, { cause: error });
  }
  try {
    return JSON.parse(text);
  } catch {
    // What the parser says has a piece of the text in it.
    throw new ReadonceError(
      'invalid_argument',
      `Expected the file ${path} to be JSON but got something else.`,
    );
  }
}
