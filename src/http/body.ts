import type { MiddlewareHandler } from 'hono';
import { ReadonceError } from '../core/errors.ts';
import { untilAborted } from '../core/until-aborted.ts';
import type { AppEnv } from './app-env.ts';
import type { BodyShare } from './body-budget.ts';
import { Disconnection } from './disconnection.ts';

/** What a route takes; the rest is `unsupported_media_type` or `payload_too_large`. */
export interface BodyOptions {
  /** Media types that are taken, lower case. */
  readonly mediaTypes: readonly string[];
  readonly maxBytes: number;
  /** What to do about a body that is too large; default for documents. */
  readonly advice?: string;
  /** Whether there may be no body, of no media type: then the text is ''. */
  readonly optional?: boolean;
}

/**
 * Reads a request's body as text before anything looks at it, so that the limit holds while it
 * arrives and only valid UTF-8 gets further. Handlers and validators find it in `c.req.text()` and
 * `c.req.json()`. All bodies together are bounded (`BodyBudget`), each until its response begins.
 */
export function readBody(options: BodyOptions): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    const contentType = c.req.header('Content-Type');
    const mayBeNone = options.optional === true && contentType === undefined;
    if (!mayBeNone) checkTextType(contentType, options.mediaTypes);
    checkEncoding(c.req.header('Content-Encoding'));
    if (Number(c.req.header('Content-Length') ?? 0) > options.maxBytes) throw tooLarge(options);
    const share = c.var.bodies.share();
    try {
      const parts = boundedParts(c.req.raw.body, options, c.var.signal);
      const text = decode(await joined(parts, share));
      if (mayBeNone && text !== '') checkTextType(contentType, options.mediaTypes);
      // Declared as the text itself, but read as a promise of it.
      Object.assign(c.req.bodyCache, { text: Promise.resolve(text) });
      await next();
    } finally {
      share.close();
    }
  };
}

/**
 * A request's body in parts, as they come. Whoever stops early gets the answer through: the rest is
 * read and dropped.
 * @throws ReadonceError `unsupported_media_type`, `payload_too_large`; the reason of `signal`
 */
export function streamBody(
  request: Request,
  options: BodyOptions,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, undefined> {
  const header = (name: string) => request.headers.get(name) ?? undefined;
  const contentType = header('Content-Type');
  if (!options.mediaTypes.includes(mediaTypeOf(contentType))) {
    throw unsupportedType(options.mediaTypes.join(', '), contentType);
  }
  checkEncoding(header('Content-Encoding'));
  if (Number(header('Content-Length') ?? 0) > options.maxBytes) throw tooLarge(options);
  return boundedParts(request.body, options, signal);
}

/** The media type of a `Content-Type`, without its parameters, lower case; '' if there is none. */
export function mediaTypeOf(contentType: string | undefined): string {
  return (contentType ?? '').split(';', 1).join().trim().toLowerCase();
}

function checkTextType(contentType: string | undefined, mediaTypes: readonly string[]): void {
  const mediaType = mediaTypeOf(contentType);
  const charset = /;\s*charset\s*=\s*"?([^";\s]*)/i.exec(contentType ?? '')?.[1]?.toLowerCase();
  if (mediaTypes.includes(mediaType) && /^(utf-?8|us-ascii)?$/.test(charset ?? '')) return;
  throw unsupportedType(`${mediaTypes.join(', ')} (in UTF-8)`, contentType);
}

function unsupportedType(expected: string, contentType: string | undefined): ReadonceError {
  const got = contentType === undefined ? 'nothing' : JSON.stringify(contentType);
  return new ReadonceError(
    'unsupported_media_type',
    `Expected ${expected} for Content-Type but got ${got}.`,
  );
}

function checkEncoding(encoding: string | undefined): void {
  if (encoding === undefined || encoding.toLowerCase() === 'identity') return;
  throw new ReadonceError(
    'unsupported_media_type',
    `Expected no Content-Encoding but got ${JSON.stringify(encoding)}. Send the body uncompressed.`,
  );
}

/** @throws ReadonceError `overloaded` */
async function joined(parts: AsyncIterable<Uint8Array>, share: BodyShare): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of parts) {
    share.add(chunk.byteLength);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** @throws ReadonceError `payload_too_large`; the reason of `signal` */
async function* boundedParts(
  body: ReadableStream<Uint8Array> | null,
  options: BodyOptions,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, undefined> {
  if (body === null) return;
  const reader = body.getReader();
  let size = 0;
  try {
    for (;;) {
      const { done, value } = await untilAborted(readPart(reader), signal);
      if (done) return;
      size += value.byteLength;
      if (size > options.maxBytes) throw tooLarge(options);
      yield value;
    }
  } finally {
    void discard(reader);
  }
}

/** The next part. @throws Disconnection nothing but its connection ends a body before its end */
async function readPart(reader: ReadableStreamDefaultReader<Uint8Array>) {
  try {
    return await reader.read();
  } catch (error) {
    throw new Disconnection(error);
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

function tooLarge({ maxBytes, advice = 'Split the document.' }: BodyOptions): ReadonceError {
  return new ReadonceError(
    'payload_too_large',
    `Expected at most ${maxBytes} bytes for the body but got more. ${advice}`,
    { details: { maxBytes } },
  );
}
