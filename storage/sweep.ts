import type { Clock } from '../src/core/clock.ts';
import { readableContexts } from './quota.ts';
import type { Environment } from './environment.ts';
import { idByteLength, idBytes, idOfKey } from './keys.ts';
import { finishRemoval, removeContext } from './remove.ts';
import { isBeingWorkedOn, putMark } from './unfinished.ts';

/** How long an expired context still answers "gone" before it is forgotten. */
const keepExpiredMs = 24 * 60 * 60 * 1000;

/**
 * Removes what processes that died left half-written or half-removed; the work of live ones stays.
 * @returns how many contexts
 */
export function sweepUnfinished(env: Environment, clock: Clock): number {
  const keys = env.read((snapshot) =>
    Array.from(env.tables.unfinished.getKeys({ start: Buffer.from([0]), transaction: snapshot })),
  );
  let removed = 0;
  for (const key of keys) {
    const id = idOfKey(key);
    const token = env.transact(() => {
      const gone = env.tables.unfinished.get(key) === undefined;
      return gone || isBeingWorkedOn(env, id, clock.nowMs())
        ? undefined
        : putMark(env, id, clock.nowMs());
    });
    if (token === undefined) continue;
    finishRemoval(env, id, token);
    removed++;
  }
  return removed;
}

/** Removes contexts that expired long ago; returns how many. */
export function sweepExpired(env: Environment, clock: Clock): number {
  const limitMs = clock.nowMs() - keepExpiredMs;
  return readableContexts(env).filter(
    ({ record, usage }) =>
      usage.expiresAtMs !== null &&
      usage.expiresAtMs < limitMs &&
      removeContext(env, clock, record.id),
  ).length;
}

/** Removes index keys whose context went without being readable. */
export function sweepIndex(env: Environment): void {
  const { created, catalogue } = env.tables;
  env.transact(() => {
    const keys = Array.from(created.getKeys({ start: Buffer.from([0]) }));
    for (const key of keys) {
      const id = idOfKey(key.subarray(key.byteLength - idByteLength));
      if (catalogue.get(idBytes(id)) === undefined) created.removeSync(key);
    }
  });
}
