import type { Clock } from '../src/core/clock.ts';
import type { ContextUsage } from '../src/core/context.ts';
import { contextIdPattern } from '../src/core/identity.ts';
import { findContext, intact, removeFromCatalogue } from './catalogue.ts';
import { requireMark, type Claim } from './claim.ts';
import type { Environment } from './environment.ts';
import { liveGeneration, pieceKeyRange, pieceTables } from './generations.ts';
import { idBytes } from './keys.ts';
import { putMark, releaseClaim, removeMark } from './unfinished.ts';

/** Keys removed in one transaction: bounds how long others wait for the write lock. */
const keysPerTransaction = 4096;

/**
 * Removes a context: at once from the catalogue, then piece by piece. What is interrupted between
 * is invisible, and the sweep ends it. A context with a broken record is removed too.
 * @param mayGo asked when nobody can change the usage any more; default: always
 * @returns false if it was not there, or may not go
 */
export function removeContext(
  env: Environment,
  clock: Clock,
  id: string,
  mayGo: (usage: ContextUsage) => boolean = () => true,
): boolean {
  if (!contextIdPattern.test(id)) return false;
  const claim = env.transact(() => {
    if (env.tables.catalogue.get(idBytes(id)) === undefined) return undefined;
    const usage = intact(() => findContext(env, id)?.stored.usage);
    if (usage !== undefined && !mayGo(usage)) return undefined;
    const generation = liveGeneration(env, id);
    removeFromCatalogue(env, id);
    return putMark(env, { id, generation }, clock.nowMs());
  });
  if (claim === undefined) return false;
  finishRemoval(env, claim);
  return true;
}

/** Removes the pieces of a generation, then its mark. */
export function finishRemoval(env: Environment, claim: Claim): void {
  try {
    removePieces(env, claim);
    env.transact(() => {
      requireMark(env, claim);
      removeMark(env, claim);
    }, 'ordered');
  } finally {
    releaseClaim(claim);
  }
}

function removePieces(env: Environment, claim: Claim): void {
  for (const table of pieceTables(env)) {
    for (;;) {
      const keys = env.read((snapshot) =>
        Array.from(
          table.getKeys({
            ...pieceKeyRange(claim),
            limit: keysPerTransaction,
            transaction: snapshot,
          }),
        ),
      );
      if (keys.length === 0) break;
      env.transact(() => {
        requireMark(env, claim);
        for (const key of keys) table.removeSync(key);
      }, 'ordered');
    }
  }
}
