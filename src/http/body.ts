import type { MiddlewareHandler } from 'hono';
import { ReadonceError } from '../core/errors.ts';
import type { AppEnv } from './app-env.ts';

/** What a route takes; the rest is `unsupported_media_type` or `payload_too_large`. */
export interface BodyOptions {
  /** Media types that are taken, lower case. */
  readonly mediaTypes: readonly string[];
  readonly maxBytes: number;
}

/**
 * Reads a request's body as text before anything looks at it, so that the limit holds while it
 * arrives and only valid UTF-8 gets further. Handlers and validators find it in `c.req.text()` and
 * `c.req.json()`.
 */
export function readBody(options: BodyOptions): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    checkMediaType(c.req.header('Content-Type'), options.mediaTypes);
    checkEncoding(c.req.header('Content-Encoding'));
    if (Number(c.req.header('Content-Length') ?? 0) > options.maxBytes) throw tooLarge(options);
    const text = decode(await readBytes(c.req.raw.body, options));
    // Declared as the text itself, but read as a promise of it.
    Object.assign(c.req.bodyCache, { text: Promise.resolve(text) });
    await next();
  };
}

/** The media type of a `Content-Type`, without its parameters, lower case; '' if there is none. */
export function mediaTypeOf(contentType: string | undefined): string {
  return (contentType ?? '').split(';', 1).join().trim().toLowerCase();
}

function checkMediaType(contentType: string | undefined, mediaTypes: readonly string[]): void {
  const mediaType = mediaTypeOf(contentType);
  const charset = /;\s*charset\s*=\s*"?([^";\s]*)/i.exec(contentType ?? '')?.[1]?.toLowerCase();
  if (mediaTypes.includes(mediaType) && /^(utf-?8|us-ascii)?$/.test(charset ?? '')) return;
  throw new ReadonceError(
    'unsupported_media_type',
    `Expected ${mediaTypes.join(', ')} (in UTF-8) for Content-Type but got ` +
      `${contentType === undefined ? 'nothing' : JSON.stringify(contentType)}.`,
  );
}

function checkEncoding(encoding: string | undefined): void {
  if (encoding === undefined || encoding.toLowerCase() === 'identity') return;
  throw new ReadonceError(
    'unsupported_media_type',
    `Expected no Content-Encoding but got ${JSON.stringify(encoding)}. Send the body uncompressed.`,
  );
}

async function readBytes(
  body: ReadableStream<Uint8Array> | null,
  options: BodyOptions,
): Promise<Uint8Array> {
  if (body === null) return new Uint8Array();
  const reader = body.getReader();
  const chunks: Uint8Array[] = [];
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return Buffer.concat(chunks, size);
    size += value.byteLength;
    if (size > options.maxBytes) {
      void discard(reader);
      throw tooLarge(options);
    }
    chunks.push(value);
  }
}

/**
 * Reads on without keeping anything: a client that is still sending would otherwise not see the
 * answer. The server closes the connection when this takes too long.
 */
async function discard(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<void> {
  try {
    while (!(await reader.read()).done);
  } catch {
    // The connection was closed: nothing is left to discard.
  }
}

function decode(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    throw new ReadonceError(
      'invalid_argument',
      'Expected valid UTF-8 for the body but got other bytes. Convert the text to UTF-8.',
      { cause: error },
    );
  }
}

function tooLarge({ maxBytes }: BodyOptions): ReadonceError {
  return new ReadonceError(
    'payload_too_large',
    `Expected at most ${maxBytes} bytes for the body but got more. Split the document.`,
    { details: { maxBytes } },
  );
}
