import { errorTable, ReadonceError, type ErrorCode } from '../core/errors.ts';

/** The fields of an `application/problem+json` body that a client uses; any may be missing. */
interface Problem {
  readonly code?: unknown;
  readonly detail?: unknown;
  readonly requestId?: unknown;
  readonly errors?: unknown;
}

/** The error a response that is not 2xx stands for. */
export async function problemError(response: Response): Promise<ReadonceError> {
  const retryAfter = Number(response.headers.get('retry-after') ?? Number.NaN);
  const text = await response.text().catch(() => '');
  return readProblem(text, response.status, Number.isFinite(retryAfter) ? retryAfter : undefined);
}

/**
 * A problem as the error it was made from. What is no problem of ours (a proxy's page, say) becomes
 * `internal` and names the status.
 */
export function readProblem(
  text: string,
  status: number,
  retryAfterSeconds?: number,
): ReadonceError {
  const problem = parseObject(text);
  const retry = retryAfterSeconds === undefined ? {} : { retryAfterSeconds };
  if (!isErrorCode(problem.code)) {
    return new ReadonceError(
      'internal',
      `Expected a readonce server but got an unknown answer with status ${status}.`,
      { ...retry, details: { status } },
    );
  }
  const { detail, requestId, errors } = problem;
  return new ReadonceError(
    problem.code,
    typeof detail === 'string' ? detail : errorTable[problem.code].title,
    { ...retry, details: { requestId, ...(errors === undefined ? {} : { errors }) } },
  );
}

/**
 * No server answered at `baseUrl`; an abort by the caller, or by a time-out of its, is passed on as
 * it is.
 */
export function connectionError(
  baseUrl: string,
  error: unknown,
  signal: AbortSignal | undefined,
): unknown {
  if (signal?.aborted === true && error === signal.reason) return error;
  if (error instanceof Error && error.name === 'AbortError') return error;
  const cause = error instanceof Error ? error.cause : undefined;
  const reason = cause instanceof Error && 'code' in cause ? String(cause.code) : String(error);
  return new ReadonceError(
    'engine_unavailable',
    `Expected a readonce server at ${baseUrl} but could not reach one (${reason}). ` +
      'Start it with "readonce serve", or name another address with --url or READONCE_URL.',
    { cause: error },
  );
}

function parseObject(text: string): Problem {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? value : {};
  } catch {
    return {};
  }
}

function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === 'string' && Object.hasOwn(errorTable, value);
}
