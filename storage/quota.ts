import type { Clock } from '../src/core/clock.ts';
import type { StoredContext } from '../src/core/context.ts';
import { ReadonceError } from '../src/core/errors.ts';
import { findContext, intact } from './catalogue.ts';
import type { Environment, Snapshot } from './environment.ts';
import { idOfKey } from './keys.ts';
import { pageBytes } from './lmdb-file.ts';
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
  if (missingBytes() <= 0) return;
  const candidates = removable(env, clock);
  const removableBytes = candidates.reduce((sum, { bytes }) => sum + bytes, 0);
  if (missingBytes() > removableBytes) {
    throw new ReadonceError(
      'storage_full',
      `Expected room for ${neededBytes} bytes in a store of at most ${maxBytes} but removing every ` +
        `context that is not pinned would not make it; raise the limit or unpin contexts`,
      { details: { neededBytes, maxBytes, usedBytes: env.usedBytes(), removableBytes } },
    );
  }
  for (const { contextId, quarantined, remove } of candidates) {
    if (missingBytes() <= 0) return;
    remove();
    info({ contextId, quarantined }, 'removed a context to make room');
  }
}

interface Removable {
  readonly contextId: string;
  readonly quarantined: boolean;
  readonly bytes: number;
  readonly remove: () => void;
}

/** What may go, in the order in which it goes. */
function removable(env: Environment, clock: Clock): Removable[] {
  const nowMs = clock.nowMs();
  const expired = ({ usage }: StoredContext): number =>
    usage.expiresAtMs !== null && usage.expiresAtMs <= nowMs ? 0 : 1;
  const contexts = env
    .read((snapshot) => readableContexts(env, snapshot))
    .filter(({ usage }) => !usage.pinned)
    .sort((a, b) => expired(a) - expired(b) || a.usage.lastUsedAtMs - b.usage.lastUsedAtMs);
  return [
    ...readQuarantine(env).map((found) => ({
      contextId: found.id,
      quarantined: true,
      bytes: found.bytes,
      remove: () => void purge({ env, clock }, found),
    })),
    ...contexts.map(({ record: { id }, diskBytes }) => ({
      contextId: id,
      quarantined: false,
      bytes: diskBytes,
      remove: () => void removeContext(env, clock, id),
    })),
  ];
}

/** Every context whose records are intact. Inside a write transaction leave `snapshot` out. */
export function readableContexts(env: Environment, snapshot?: Snapshot): StoredContext[] {
  const view = snapshot === undefined ? {} : { transaction: snapshot };
  const keys = Array.from(env.tables.catalogue.getKeys({ start: Buffer.from([0]), ...view }));
  return keys.flatMap(
    (key) => intact(() => findContext(env, idOfKey(key), snapshot)?.stored) ?? [],
  );
}
