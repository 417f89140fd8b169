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
 * Whether the runtime's memory ran out, though the pool has room. What the pool could never hold is
 * refused by `tooLarge`, before any memory is taken.
 */
export function ranOut(error: unknown): error is ReadonceError {
  const isMemory = error instanceof ReadonceError && error.code === 'out_of_memory';
  return isMemory && !('poolBytes' in error.details);
}

/** What contexts take of a device at most, of the bytes that are counted: blocks are not full. */
const mostPadding = 1.25;

/**
 * Whether it helps that contexts of `idleBytes` give way. Not if all of them are too little, as far
 * as the error tells, and not if other memory ran out.
 */
export function mayHelp({ details }: ReadonceError, idleBytes: number): boolean {
  const { sizeBytes = 0, freeBytes = 0, memory } = details;
  return memory !== 'host' && Number(sizeBytes) <= Number(freeBytes) + mostPadding * idleBytes;
}
