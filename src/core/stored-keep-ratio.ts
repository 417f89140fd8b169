import { ReadonceError } from './errors.ts';

/** What of a stored context decides which keepRatios it can be asked with. */
export interface StoredKeepRatio {
  readonly keepRatio: number;
  readonly method: string;
  /** Whether the method keeps all pairs: then they have no order. */
  readonly keepsAll: boolean;
}

/**
 * Refuses a keepRatio that a context cannot be used at.
 * @throws ReadonceError `invalid_argument`, naming both, for one above the stored one, or one that
 * the context's method has no order for
 */
export function requireStoredKeepRatio(asked: number, stored: StoredKeepRatio): void {
  const { keepRatio, method, keepsAll } = stored;
  const details = { path: 'keepRatio', keepRatio: asked, storedKeepRatio: keepRatio };
  if (asked < keepRatio && keepsAll) {
    throw new ReadonceError(
      'invalid_argument',
      `Expected ${keepRatio} or nothing for keepRatio, since the pairs of method "${method}" have ` +
        `no order, but got ${asked}: put the document with a method that scores`,
      { details },
    );
  }
  if (asked <= keepRatio) return;
  throw new ReadonceError(
    'invalid_argument',
    `Expected a keepRatio of at most ${keepRatio}, which the context was stored with, but got ` +
      `${asked}: put the document again with a larger one`,
    { details },
  );
}
