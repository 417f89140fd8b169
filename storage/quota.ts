import type { Clock } from '../src/core/clock.ts';
import type { StoredContext } from '../src/core/context.ts';
import { ReadonceError } from '../src/core/errors.ts';
import { findContext } from './catalogue.ts';
import { pageBytes, type Environment } from './environment.ts';
import { idOfKey } from './keys.ts';
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
 * Removes contexts until `pages` more pages fit the quota: expired ones first, then the least
 * recently used; pinned ones never. Removes nothing if that would not be enough.
 * @throws ReadonceError `storage_full`
 */
export function makeRoom({ env, clock, maxBytes, info }: QuotaDeps, pages: number): void {
  if (maxBytes === undefined) return;
  const neededBytes = pages * pageBytes;
  const missingBytes = (): number => env.usedBytes() + neededBytes - maxBytes;
  if (missingBytes() <= 0) return;
  const candidates = removable(env, clock.nowMs());
  const removableBytes = candidates.reduce((sum, context) => sum + context.diskBytes, 0);
  if (missingBytes() > removableBytes) {
    throw new ReadonceError(
      'storage_full',
      `Expected room for ${neededBytes} bytes in a store of at most ${maxBytes} but removing every ` +
        `context that is not pinned would not make it; raise the limit or unpin contexts`,
      { details: { neededBytes, maxBytes, usedBytes: env.usedBytes(), removableBytes } },
    );
  }
  for (const { record } of candidates) {
    if (missingBytes() <= 0) return;
    removeContext(env, clock, record.id);
    info({ contextId: record.id }, 'removed a context to make room');
  }
}

/** Contexts that may go, in the order in which they go. */
function removable(env: Environment, nowMs: number): StoredContext[] {
  const expired = ({ usage }: StoredContext): number =>
    usage.expiresAtMs !== null && usage.expiresAtMs <= nowMs ? 0 : 1;
  return readableContexts(env)
    .filter(({ usage }) => !usage.pinned)
    .sort((a, b) => expired(a) - expired(b) || a.usage.lastUsedAtMs - b.usage.lastUsedAtMs);
}

/** Every context whose records are intact. */
export function readableContexts(env: Environment): StoredContext[] {
  return env.read((snapshot) => {
    const keys = Array.from(
      env.tables.catalogue.getKeys({ start: Buffer.from([0]), transaction: snapshot }),
    );
    return keys.flatMap((key) => {
      try {
        return findContext(env, idOfKey(key), snapshot)?.stored ?? [];
      } catch (error) {
        if (error instanceof ReadonceError) return [];
        throw error;
      }
    });
  });
}
