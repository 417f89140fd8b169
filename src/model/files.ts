import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import { z } from 'zod';
import { ReadonceError } from '../core/errors.ts';

/**
 * Largest JSON file of a checkpoint that is read, bytes: a tokenizer of 256,000 tokens has about
 * 30 MB, and more than this is not a tokenizer or config.
 */
export const maxJsonBytes = 64 * 1024 * 1024;

/** Size of a file, bytes; undefined if there is no such file (a folder is none). */
export async function fileSize(path: string): Promise<number | undefined> {
  try {
    const found = await stat(path);
    return found.isFile() ? found.size : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Parses a JSON file; undefined if it does not exist.
 * @throws ReadonceError `invalid_argument` if it is no JSON or larger than `maxJsonBytes`
 */
export async function readJson(path: string): Promise<unknown> {
  const sizeBytes = await fileSize(path);
  if (sizeBytes === undefined) return undefined;
  if (sizeBytes > maxJsonBytes) {
    throw new ReadonceError(
      'invalid_argument',
      `Expected at most ${maxJsonBytes} bytes for ${path} but got ${sizeBytes}`,
    );
  }
  try {
    return JSON.parse(await readFile(path, 'utf8')) as unknown;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ReadonceError('invalid_argument', `Expected JSON in ${path} but got: ${reason}`, {
      cause: error,
    });
  }
}

/**
 * A value as its schema has it.
 * @throws ReadonceError `invalid_argument` that lists every key that is not as expected
 */
export function parseChecked<T>(schema: z.ZodType<T>, value: unknown, what: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw new ReadonceError(
    'invalid_argument',
    `Expected a valid ${what} but got: ${z.prettifyError(result.error)}`,
  );
}

/** SHA-256 of a file as lower-case hex, read as a stream (about 1 GiB/s). */
export async function sha256File(path: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path, { highWaterMark: 4 * 1024 * 1024 }), hash);
  return hash.digest('hex');
}
