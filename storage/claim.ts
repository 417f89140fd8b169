import { ReadonceError } from '../src/core/errors.ts';
import type { Environment } from './environment.ts';
import { generationKey, type Generation } from './keys.ts';

/** A generation that is being written or removed, and its mark. */
export interface Claim extends Generation {
  /** The mark's, see `UnfinishedMark`. */
  readonly token: string;
  /** The mark as it is stored: no other has its bytes. */
  readonly mark: Uint8Array;
}

/**
 * Fails unless the mark is still the one that was put. Every transaction of a write or a removal
 * begins with it, so a process that was taken for dead cannot go on by mistake.
 * @throws ReadonceError `conflict`
 */
export function requireMark({ tables }: Environment, claim: Claim): void {
  const { id, mark } = claim;
  const found = tables.unfinished.get(generationKey(claim));
  if (found?.equals(mark) === true) return;
  throw new ReadonceError(
    'conflict',
    `Expected to go on writing ${id} but another process took it over; try again`,
    { details: { id } },
  );
}
