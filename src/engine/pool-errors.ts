import { ReadonceError } from '../core/errors.ts';

/** A context that the pool could never hold. */
export function tooLarge(bytes: number, poolBytes: number): ReadonceError {
  return new ReadonceError(
    'out_of_memory',
    `Expected a context of at most ${poolBytes} bytes in memory but it needs ${bytes}: raise ` +
      'READONCE_POOL_BYTES, or ask with a smaller keepRatio or maxTokens',
    { details: { bytes, poolBytes } },
  );
}

/** A pool that running queries fill, with the sessions that are asked. */
export function noRoom(details: {
  readonly bytes: number;
  readonly poolBytes: number;
  readonly heldBytes: number;
}): ReadonceError {
  return new ReadonceError(
    'overloaded',
    `Expected room for ${details.bytes} bytes in memory but queries and sessions hold ` +
      `${details.heldBytes} of ${details.poolBytes}: try again shortly, or raise ` +
      'READONCE_POOL_BYTES',
    { details, retryAfterSeconds: 1 },
  );
}

/**
 * Whether the runtime's memory ran out: others may give way. What the pool could never hold is
 * refused by `tooLarge`, before any memory is taken; nobody gives way either to what a device could
 * never hold.
 */
export function ranOut(error: unknown): boolean {
  if (!(error instanceof ReadonceError) || error.code !== 'out_of_memory') return false;
  const { sizeBytes = 0, totalBytes = Infinity } = error.details;
  return !('poolBytes' in error.details) && Number(sizeBytes) <= Number(totalBytes);
}
