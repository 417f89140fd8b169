import type { Environment } from './environment.ts';
import { pageBytes } from './lmdb-pages.ts';

/** A store and its quota. */
export interface Room {
  readonly env: Environment;
  /** Undefined: only the disk is the limit. */
  readonly maxBytes: number | undefined;
}

/** Whether `pages` more pages fit the quota; within a write transaction, as that sees the store. */
export function hasRoom({ env, maxBytes }: Room, pages: number): boolean {
  return maxBytes === undefined || env.usedBytes() + pages * pageBytes <= maxBytes;
}
