import { createHash } from 'node:crypto';

/** A key that opens the server, and whose it is. The key itself is not kept. */
export interface ApiKey {
  /** SHA-256 of the key in UTF-8. */
  readonly sha256: Uint8Array;
  /** Never ''. */
  readonly tenant: string;
}

/**
 * What a key is compared by. Keys are long and random, so that a plain hash gives nothing away that
 * could be tried out.
 */
export function hashApiKey(key: string): Uint8Array {
  return createHash('sha256').update(key, 'utf8').digest();
}
