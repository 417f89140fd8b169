import type { Clock } from '../src/core/clock.ts';
import type { StoredContext } from '../src/core/context.ts';
import { findContext, indexKeys, intact, putIndexKey, type IndexKey } from './catalogue.ts';
import type { Claim } from './claim.ts';
import type { Environment, Snapshot } from './environment.ts';
import { liveGeneration, storedGenerations } from './generations.ts';
import {
  expiryKeyByteLength,
  generationKey,
  idByteLength,
  idBytes,
  idOfKey,
  type Generation,
} from './keys.ts';
import { quarantinedGenerations } from './quarantine-records.ts';
import { finishRemoval, removeContext } from './remove.ts';
import { isBeingWorkedOn, markedGenerations, putMark } from './unfinished.ts';

/** How long an expired context still answers "gone" before it is forgotten. */
const keepExpiredMs = 24 * 60 * 60 * 1000;

/**
 * Removes what processes that died left half-written or half-removed; the work of live ones stays.
 * @returns how many contexts
 */
export function sweepUnfinished(env: Environment, clock: Clock): number {
  const marked = env.read((snapshot) => markedGenerations(env, { snapshot }));
  return marked.filter((of) => {
    const claim = env.transact(() => takeOver(env, of, clock.nowMs()));
    if (claim !== undefined) finishRemoval(env, claim);
    return claim !== undefined;
  }).length;
}

function takeOver(env: Environment, of: Generation, nowMs: number): Claim | undefined {
  const gone = env.tables.unfinished.get(generationKey(of)) === undefined;
  return gone || isBeingWorkedOn(env, of, nowMs) ? undefined : putMark(env, of, nowMs);
}

/** Removes contexts that expired long ago, found by the index; returns how many. */
export function sweepExpired(env: Environment, clock: Clock): number {
  const limitMs = clock.nowMs() - keepExpiredMs;
  const due = env.read((snapshot) => {
    const ids: string[] = [];
    const { expires } = env.tables;
    for (const key of expires.getKeys({ start: Buffer.from([0]), transaction: snapshot })) {
      if (Number(key.readBigUInt64BE()) >= limitMs) break;
      ids.push(idOfKey(key.subarray(expiryKeyByteLength - idByteLength)));
    }
    return ids;
  });
  return due.filter((id) => {
    const found = intact(() => env.read((view) => findContext(env, id, view)));
    if (found === undefined) return false;
    return removeContext(
      env,
      clock,
      id,
      ({ expiresAtMs }) => expiresAtMs !== null && expiresAtMs < limitMs,
    );
  }).length;
}

/** Makes the indexes name every readable context, and no key that they should not have. */
export function sweepIndex(env: Environment): void {
  const isRight = ({ missing, wrong }: IndexFaults): boolean =>
    missing.length === 0 && wrong.length === 0;
  // Others write meanwhile, unless there is something to do.
  if (isRight(env.read((snapshot) => indexFaults(env, snapshot)))) return;
  env.transact(() => {
    const { missing, wrong } = indexFaults(env);
    for (const { table, key } of wrong) env.tables[table].removeSync(key);
    for (const index of missing) putIndexKey(env, index);
  });
}

interface IndexFaults {
  readonly missing: readonly IndexKey[];
  readonly wrong: readonly IndexKey[];
}

function indexFaults(env: Environment, snapshot?: Snapshot): IndexFaults {
  const view = snapshot === undefined ? {} : { transaction: snapshot };
  const missing = new Map<string, IndexKey>();
  for (const { record, usage } of readableContexts(env, snapshot)) {
    for (const index of indexKeys(record, usage)) missing.set(nameOf(index), index);
  }
  const wrong: IndexKey[] = [];
  for (const table of ['created', 'families', 'expires'] as const) {
    for (const key of env.tables[table].getKeys({ start: Buffer.from([0]), ...view })) {
      if (!missing.delete(nameOf({ table, key }))) wrong.push({ table, key: Buffer.from(key) });
    }
  }
  return { missing: [...missing.values()], wrong };
}

/** Every context whose records are intact. Inside a write transaction leave `snapshot` out. */
function readableContexts(env: Environment, snapshot?: Snapshot): StoredContext[] {
  const view = snapshot === undefined ? {} : { transaction: snapshot };
  const keys = Array.from(env.tables.catalogue.getKeys({ start: Buffer.from([0]), ...view }));
  return keys.flatMap(
    (key) => intact(() => findContext(env, idOfKey(key), snapshot)?.stored) ?? [],
  );
}

function nameOf({ table, key }: IndexKey): string {
  return `${table} ${key.toString('hex')}`;
}

/** Removes pieces that neither a record nor a mark speaks for; returns of how many generations. */
export function sweepStray(env: Environment, clock: Clock): number {
  const stored = env.read((snapshot) => storedGenerations(env, { snapshot }));
  return stored.filter((of) => {
    const claim = env.transact(() =>
      isStray(env, of) ? putMark(env, of, clock.nowMs()) : undefined,
    );
    if (claim !== undefined) finishRemoval(env, claim);
    return claim !== undefined;
  }).length;
}

function isStray(env: Environment, of: Generation): boolean {
  const { id } = of;
  const has = (found: readonly Generation[]): boolean =>
    found.some(({ generation }) => generation === of.generation);
  if (!has(storedGenerations(env, { id }))) return false;
  if (has(markedGenerations(env, { id })) || has(quarantinedGenerations(env, { id }))) return false;
  const catalogued = env.tables.catalogue.get(idBytes(id)) !== undefined;
  return !catalogued || liveGeneration(env, id) !== of.generation;
}
