import type { Clock } from '../src/core/clock.ts';
import { contextIdPattern } from '../src/core/identity.ts';
import { findEntry, intact, removeFromCatalogue } from './catalogue.ts';
import type { Fault } from './context-store.ts';
import type { Environment } from './environment.ts';
import { liveGeneration, pieceKeyRange, pieceTables } from './generations.ts';
import { generationKey, idBytes, type Generation } from './keys.ts';
import {
  putQuarantine,
  quarantinedGenerations,
  readQuarantine,
  removeQuarantine,
} from './quarantine-records.ts';
import { finishRemoval } from './remove.ts';
import { putMark } from './unfinished.ts';

/** What quarantining works with. */
export interface QuarantineDeps {
  readonly env: Environment;
  readonly clock: Clock;
}

/** See `ContextStore.quarantine`. One transaction, whatever the context's size. */
export function quarantineContext(deps: QuarantineDeps, id: string, fault: Fault): boolean {
  if (!contextIdPattern.test(id)) return false;
  const { env } = deps;
  const previous = env.transact(() => {
    const live = moveAside(deps, id, fault);
    if (live === undefined) return undefined;
    return quarantinedGenerations(env, { id })
      .filter(({ generation }) => generation !== live)
      .map((older) => beginPurge(deps, older));
  });
  for (const claim of previous ?? []) finishRemoval(env, claim);
  return previous !== undefined;
}

/**
 * Replaces the catalogue's records by one of the quarantine. Call in a write transaction.
 * @returns the generation that was moved, undefined if it is not there
 */
function moveAside({ env, clock }: QuarantineDeps, id: string, fault: Fault): number | undefined {
  const key = idBytes(id);
  const catalogue = env.tables.catalogue.get(key);
  if (catalogue === undefined) return undefined;
  const generation = liveGeneration(env, id);
  if (fault.generation !== undefined && fault.generation !== generation) return undefined;
  const entry = intact(() => findEntry(env, id)?.entry);
  putQuarantine(
    env,
    { id, generation },
    {
      reason: fault.reason,
      quarantinedAtMs: clock.nowMs(),
      pieceBytes: entry?.sizes.pieceBytes ?? countPieceBytes(env, { id, generation }),
      catalogue,
      usage: env.tables.usage.get(key) ?? null,
    },
  );
  removeFromCatalogue(env, id);
  return generation;
}

/** For a context whose record does not say any more. */
function countPieceBytes(env: Environment, of: Generation): number {
  let bytes = 0;
  for (const table of pieceTables(env)) {
    for (const { key, value } of table.getRange(pieceKeyRange(of))) {
      bytes += key.byteLength + value.byteLength;
    }
  }
  return bytes;
}

/** Removes what is in quarantine since `limitMs` or longer; returns how many. */
export function purgeQuarantine(deps: QuarantineDeps, limitMs: number): number {
  return readQuarantine(deps.env).filter(
    (context) => context.quarantinedAtMs <= limitMs && purge(deps, context),
  ).length;
}

/** Removes one; false if another process did. */
export function purge(deps: QuarantineDeps, of: Generation): boolean {
  const { env } = deps;
  const claim = env.transact(() => {
    const there = env.tables.quarantine.get(generationKey(of)) !== undefined;
    return there ? beginPurge(deps, of) : undefined;
  });
  if (claim === undefined) return false;
  finishRemoval(env, claim);
  return true;
}

function beginPurge({ env, clock }: QuarantineDeps, of: Generation) {
  removeQuarantine(env, of);
  return putMark(env, of, clock.nowMs());
}
