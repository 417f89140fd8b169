/**
 * Every error that can reach a client, in one table: code → HTTP status, title, and whether trying
 * again can help. `docs/errors.md` explains each.
 */
export const errorTable = {
  invalid_argument: { status: 400, title: 'Invalid argument', retryable: false },
  unauthenticated: { status: 401, title: 'Authentication required', retryable: false },
  forbidden: { status: 403, title: 'Forbidden', retryable: false },
  not_found: { status: 404, title: 'Not found', retryable: false },
  method_not_allowed: { status: 405, title: 'Method not allowed', retryable: false },
  request_timeout: { status: 408, title: 'Request timeout', retryable: true },
  conflict: { status: 409, title: 'Conflict', retryable: true },
  identity_mismatch: { status: 409, title: 'Identity mismatch', retryable: false },
  gone: { status: 410, title: 'Gone', retryable: false },
  payload_too_large: { status: 413, title: 'Payload too large', retryable: false },
  unsupported_media_type: { status: 415, title: 'Unsupported media type', retryable: false },
  unsupported: { status: 422, title: 'Unsupported', retryable: false },
  context_too_long: { status: 422, title: 'Context too long', retryable: false },
  quota_exceeded: { status: 429, title: 'Quota exceeded', retryable: true },
  rate_limited: { status: 429, title: 'Rate limited', retryable: true },
  internal: { status: 500, title: 'Internal error', retryable: false },
  corrupt_record: { status: 500, title: 'Corrupt record', retryable: false },
  engine_unavailable: { status: 503, title: 'Engine unavailable', retryable: true },
  overloaded: { status: 503, title: 'Overloaded', retryable: true },
  deadline_exceeded: { status: 504, title: 'Deadline exceeded', retryable: true },
  out_of_memory: { status: 507, title: 'Out of memory', retryable: false },
  storage_full: { status: 507, title: 'Storage full', retryable: false },
} as const;

/** What programs tell errors apart by; a code never changes its meaning. */
export type ErrorCode = keyof typeof errorTable;

/** What an error has beside code and message. All but `cause` crosses process boundaries. */
export interface ErrorOptions {
  readonly cause?: unknown;
  /** Machine-readable facts (numbers, paths); never document or query text. */
  readonly details?: Readonly<Record<string, unknown>>;
  /** After how many seconds a client should try again; sent as `Retry-After`. */
  readonly retryAfterSeconds?: number;
}

/** The form in which an error crosses a process boundary or is stored. */
export interface SerializedError {
  readonly code: ErrorCode;
  readonly message: string;
  readonly details?: Readonly<Record<string, unknown>>;
  readonly retryAfterSeconds?: number;
}

/**
 * An operating error: something a caller did or the machine lacked. Programmer errors are
 * `AssertionError`s and are not caught on the way up.
 */
export class ReadonceError extends Error {
  readonly code: ErrorCode;
  readonly details: Readonly<Record<string, unknown>>;
  readonly retryAfterSeconds: number | undefined;

  constructor(code: ErrorCode, message: string, options: ErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'ReadonceError';
    this.code = code;
    this.details = options.details ?? {};
    this.retryAfterSeconds = options.retryAfterSeconds;
  }

  get status(): number {
    return errorTable[this.code].status;
  }

  get retryable(): boolean {
    return errorTable[this.code].retryable;
  }

  toJSON(): SerializedError {
    return {
      code: this.code,
      message: this.message,
      details: this.details,
      ...(this.retryAfterSeconds === undefined
        ? {}
        : { retryAfterSeconds: this.retryAfterSeconds }),
    };
  }

  static fromJSON(value: SerializedError): ReadonceError {
    return new ReadonceError(value.code, value.message, value);
  }
}

/**
 * Makes any thrown value one of ours; what is not yet becomes `internal` with the original as
 * cause.
 */
export function asReadonceError(error: unknown): ReadonceError {
  if (error instanceof ReadonceError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new ReadonceError('internal', message, { cause: error });
}
