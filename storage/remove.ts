import type { Clock } from '../src/core/clock.ts';
import { contextIdPattern } from '../src/core/identity.ts';
import { removeFromCatalogue } from './catalogue.ts';
import type { Environment } from './environment.ts';
import { idBytes, pieceKeyRange } from './keys.ts';
import { putMark, releaseToken, requireMark } from './unfinished.ts';

/** Keys removed in one transaction: bounds how long others wait for the write lock. */
const keysPerTransaction = 4096;

/**
 * Removes a context: at once from the catalogue, then piece by piece. What is interrupted between
 * is invisible, and the sweep ends it. A context with a broken record is removed too.
 * @returns false if it was not there
 */
export function removeContext(env: Environment, clock: Clock, id: string): boolean {
  if (!contextIdPattern.test(id)) return false;
  const token = env.transact(() => {
    if (env.tables.catalogue.get(idBytes(id)) === undefined) return undefined;
    removeFromCatalogue(env, id);
    return putMark(env, id, clock.nowMs());
  });
  if (token === undefined) return false;
  finishRemoval(env, id, token);
  return true;
}

/** Removes the pieces of `id` and its mark, which `token` names. */
export function finishRemoval(env: Environment, id: string, token: string): void {
  try {
    removePieces(env, id, token);
    env.transact(() => {
      requireMark(env, id, token);
      env.tables.unfinished.removeSync(idBytes(id));
    });
  } finally {
    releaseToken(token);
  }
}

/** Removes the pieces of `id`; its mark stays. */
export function removePieces(env: Environment, id: string, token: string): void {
  const { segments, rankings, tokens } = env.tables;
  for (const table of [segments, rankings, tokens]) {
    for (;;) {
      const keys = env.read((snapshot) =>
        Array.from(
          table.getKeys({ ...pieceKeyRange(id), limit: keysPerTransaction, transaction: snapshot }),
        ),
      );
      if (keys.length === 0) break;
      env.transact(() => {
        requireMark(env, id, token);
        for (const key of keys) table.removeSync(key);
      });
    }
  }
}
