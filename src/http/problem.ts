import type { Context } from 'hono';
import { HTTPException } from 'hono/http-exception';
import { errorTable, ReadonceError, type ErrorCode } from '../core/errors.ts';
import type { AppEnv } from './app-env.ts';
import { openAiError, speaksOpenAi } from './openai-error.ts';
import {
  problemMediaType,
  problemSchema,
  usualRetryAfterSeconds,
  type Problem,
} from './schemas/problem.ts';

/** The problem (RFC 9457) that tells a client of an error. */
export function problemOf(
  error: ReadonceError,
  request: { readonly instance: string; readonly requestId: string },
): Problem {
  const { title, status } = errorTable[error.code];
  const errors = fieldErrors(error);
  return {
    type: `urn:readonce:error:${error.code}`,
    title,
    status,
    detail: error.message,
    instance: request.instance,
    code: error.code,
    requestId: request.requestId,
    ...(errors.length === 0 ? {} : { errors }),
  };
}

/** A problem as the response to the request at hand; below /v1 for OpenAI's clients, too. */
export function problemResponse(c: Context<AppEnv>, error: ReadonceError): Response {
  const problem = problemOf(error, { instance: c.req.path, requestId: c.var.requestId });
  c.set('problemCode', error.code);
  const retryAfterSeconds = error.retryAfterSeconds ?? usualRetryAfterSeconds.get(error.code);
  if (retryAfterSeconds !== undefined) {
    c.header('Retry-After', String(Math.ceil(retryAfterSeconds)));
  }
  if (error.code === 'unauthenticated') c.header('WWW-Authenticate', 'Bearer');
  const { status } = errorTable[error.code];
  const body = speaksOpenAi(c.req.path) ? openAiError(problem) : problem;
  return c.body(JSON.stringify(body), status, { 'Content-Type': problemMediaType });
}

/**
 * What a client is told of a thrown value. What is no error of ours is a defect: the client gets no
 * internals, the log (by the request id) has them.
 */
export function clientError(thrown: unknown): ReadonceError {
  if (thrown instanceof ReadonceError) return thrown;
  if (thrown instanceof HTTPException && thrown.status < 500) return frameworkError(thrown);
  return new ReadonceError(
    'internal',
    'Something went wrong on our side. The server log has more under this request id.',
    { cause: thrown },
  );
}

/** Statuses that the framework's validators refuse with. */
const frameworkCodes: ReadonlyMap<number, ErrorCode> = new Map([
  [413, 'payload_too_large'],
  [415, 'unsupported_media_type'],
]);

function frameworkError(exception: HTTPException): ReadonceError {
  const code = frameworkCodes.get(exception.status) ?? 'invalid_argument';
  const message =
    exception.status === 400
      ? 'Expected a JSON text (RFC 8259) for the body but got something else.'
      : exception.message;
  return new ReadonceError(code, message, { cause: exception });
}

function fieldErrors(error: ReadonceError): NonNullable<Problem['errors']> {
  const { errors, path } = error.details;
  const listed = problemSchema.shape.errors.safeParse(errors);
  if (listed.success && listed.data !== undefined) return listed.data;
  if (typeof path === 'string') return [{ path, message: error.message }];
  return [];
}
