import { findEntry, intact } from './catalogue.ts';
import type { Environment, Snapshot, Table } from './environment.ts';
import {
  generationKey,
  generationKeyByteLength,
  generationOfKey,
  idBytes,
  keysBehind,
  type Generation,
  type KeyRange,
} from './keys.ts';
import { quarantinedGenerations } from './quarantine-records.ts';
import { markedGenerations } from './unfinished.ts';

/** The tables whose keys begin with a generation. */
export function pieceTables({ tables }: Environment): readonly Table[] {
  return [tables.segments, tables.rankings, tables.tokens];
}

/** Every generation (of one context) that has pieces, each once, without walking the pieces. */
export function storedGenerations(
  env: Environment,
  options: { readonly id?: string; readonly snapshot?: Snapshot },
): Generation[] {
  const found = new Map<string, Generation>();
  for (const table of pieceTables(env)) {
    const range = options.id === undefined ? undefined : keysBehind(idBytes(options.id));
    for (const key of leapThrough(table, range, options.snapshot)) {
      found.set(key.toString('hex'), generationOfKey(key));
    }
  }
  return [...found.values()];
}

/** One key of each generation in the range. */
function* leapThrough(
  table: Table,
  range: KeyRange | undefined,
  snapshot: Snapshot | undefined,
): Generator<Buffer> {
  const view = snapshot === undefined ? {} : { transaction: snapshot };
  const end = range === undefined ? {} : { end: range.end };
  let start = range?.start ?? Buffer.from([0]);
  for (;;) {
    const [key] = table.getKeys({ start, ...end, ...view, limit: 1 });
    if (key === undefined) return;
    const prefix = Buffer.from(key.subarray(0, generationKeyByteLength));
    yield prefix;
    start = keysBehind(prefix).end;
  }
}

/**
 * The generation that a context's catalogue record speaks for, even if the record is broken: then
 * the last one that has pieces and is neither marked nor quarantined. Call in a write transaction.
 */
export function liveGeneration(env: Environment, id: string): number {
  const entry = intact(() => findEntry(env, id)?.entry);
  if (entry !== undefined) return entry.generation;
  const taken = new Set(
    [...markedGenerations(env, { id }), ...quarantinedGenerations(env, { id })].map(
      ({ generation }) => generation,
    ),
  );
  const free = storedGenerations(env, { id })
    .map(({ generation }) => generation)
    .filter((generation) => !taken.has(generation));
  return free.length === 0 ? nextGeneration(env, id) : Math.max(...free);
}

/** A generation that nothing of a context has. Call in a write transaction. */
export function nextGeneration(env: Environment, id: string): number {
  const taken = [
    ...storedGenerations(env, { id }),
    ...markedGenerations(env, { id }),
    ...quarantinedGenerations(env, { id }),
  ];
  return 1 + Math.max(0, ...taken.map(({ generation }) => generation));
}

/** All keys of a generation's pieces. */
export function pieceKeyRange(of: Generation): KeyRange {
  return keysBehind(generationKey(of));
}
