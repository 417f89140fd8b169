import { ReadonceError } from './errors.ts';

/**
 * Refuses a keepRatio above the one that a context was stored with.
 * @throws ReadonceError `invalid_argument`, naming both
 */
export function requireStoredKeepRatio(asked: number, stored: number): void {
  if (asked <= stored) return;
  throw new ReadonceError(
    'invalid_argument',
    `Expected a keepRatio of at most ${stored}, which the context was stored with, but got ` +
      `${asked}: put the document again with a larger one`,
    { details: { path: 'keepRatio', keepRatio: asked, storedKeepRatio: stored } },
  );
}
