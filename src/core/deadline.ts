import { ReadonceError } from './errors.ts';

/** Why a request's work stops that took longer than its client wanted to wait. */
export function deadlineExceeded(timeoutMs: number): ReadonceError {
  return new ReadonceError(
    'deadline_exceeded',
    `Expected the whole answer within ${timeoutMs} ms, as X-Request-Timeout-Ms says, but it was ` +
      'not there yet. Allow more time, or ask for less.',
    { details: { timeoutMs } },
  );
}

/** Whether an error, or a signal's reason, is that a deadline has passed. */
export function isDeadlineExceeded(error: unknown): error is ReadonceError {
  return error instanceof ReadonceError && error.code === 'deadline_exceeded';
}
