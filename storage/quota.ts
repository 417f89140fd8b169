import type { Clock } from '../src/core/clock.ts';
import { ReadonceError } from '../src/core/errors.ts';
import type { Environment } from './environment.ts';
import { pageBytes } from './lmdb-pages.ts';
import { readFootprints, type Footprint } from './footprints.ts';
import { readQuarantine } from './quarantine-records.ts';
import { purge } from './quarantine.ts';
import { removeContext } from './remove.ts';

/** What `makeRoom` works with. */
export interface QuotaDeps {
  readonly env: Environment;
  readonly clock: Clock;
  /** Undefined: only the disk is the limit. */
  readonly maxBytes: number | undefined;
  readonly info: (fields: Readonly<Record<string, unknown>>, message: string) => void;
}

/**
 * Removes until `pages` more pages fit the quota: what is in quarantine first, the longest kept
 * before the others, then expired contexts, then the least recently used; pinned ones never.
 * Removes nothing if that would not be enough.
 * @throws ReadonceError `storage_full`
 */
export function makeRoom({ env, clock, maxBytes, info }: QuotaDeps, pages: number): void {
  if (maxBytes === undefined) return;
  const neededBytes = pages * pageBytes;
  const missingBytes = (): number => env.usedBytes() + neededBytes - maxBytes;
  // More than once only if others pin, or write, what was to go.
  while (missingBytes() > 0) {
    const candidates = removable(env, clock);
    const removableBytes = candidates.reduce((sum, { bytes }) => sum + bytes, 0);
    if (missingBytes() > removableBytes)
      throw noRoom({ env, maxBytes, neededBytes, removableBytes });
    for (const { contextId, quarantined, remove } of candidates) {
      if (missingBytes() <= 0) return;
      if (remove()) info({ contextId, quarantined }, 'removed a context to make room');
    }
  }
}

/**
 * Fails if `bytes` more would not fit the quota even if everything went that may go; removes
 * nothing.
 * @throws ReadonceError `storage_full`
 */
export function requireRoom({ env, clock, maxBytes }: QuotaDeps, bytes: number): void {
  if (maxBytes === undefined || env.usedBytes() + bytes <= maxBytes) return;
  const removableBytes = removable(env, clock).reduce((sum, removed) => sum + removed.bytes, 0);
  if (env.usedBytes() + bytes - maxBytes <= removableBytes) return;
  throw noRoom({ env, maxBytes, neededBytes: bytes, removableBytes });
}

function noRoom(options: {
  readonly env: Environment;
  readonly maxBytes: number;
  readonly neededBytes: number;
  readonly removableBytes: number;
}): ReadonceError {
  const { env, maxBytes, neededBytes, removableBytes } = options;
  return new ReadonceError(
    'storage_full',
    `Expected room for ${neededBytes} bytes in a store of at most ${maxBytes} but removing every ` +
      `context that is not pinned would not make it; raise the limit or unpin contexts`,
    { details: { neededBytes, maxBytes, usedBytes: env.usedBytes(), removableBytes } },
  );
}

interface Removable {
  readonly contextId: string;
  readonly quarantined: boolean;
  readonly bytes: number;
  /** False if it went or was pinned meanwhile. */
  readonly remove: () => boolean;
}

/** What may go, in the order in which it goes. */
function removable(env: Environment, clock: Clock): Removable[] {
  const nowMs = clock.nowMs();
  const expired = ({ expiresAtMs }: Footprint): number =>
    expiresAtMs !== null && expiresAtMs <= nowMs ? 0 : 1;
  const contexts = readFootprints(env)
    .intact.filter(({ pinned }) => !pinned)
    .toSorted((a, b) => expired(a) - expired(b) || a.lastUsedAtMs - b.lastUsedAtMs);
  return [
    ...readQuarantine(env).map((found) => ({
      contextId: found.id,
      quarantined: true,
      bytes: found.bytes,
      remove: () => purge({ env, clock }, found),
    })),
    ...contexts.map(({ id, diskBytes }) => ({
      contextId: id,
      quarantined: false,
      bytes: diskBytes,
      remove: () => removeContext(env, clock, id, ({ pinned }) => !pinned),
    })),
  ];
}
