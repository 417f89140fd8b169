import { readdirSync } from 'node:fs';
import type { StoreStats } from '../../storage/context-store.ts';
import { openEnvironment, type Environment } from '../../storage/environment.ts';
import { generationKeyByteLength, idByteLength, idOfKey } from '../../storage/keys.ts';
import { storeStats } from '../../storage/stats.ts';

/** What lies in a store, counted key by key; what the store says of itself is beside it. */
export interface StoreScan {
  /** Contexts that have a catalogue record: id → bytes of all keys and values it has. */
  readonly contextBytes: ReadonlyMap<string, number>;
  /** What no catalogue record, mark or quarantine speaks for, as `table key`. */
  readonly orphans: readonly string[];
  /** Ids that are marked as being written or removed. */
  readonly unfinished: readonly string[];
  readonly stats: StoreStats;
}

const pieceTables = ['segments', 'rankings', 'tokens'] as const;
const recordTables = ['catalogue', 'usage'] as const;
/** Keys end with a context's id; there are no values. */
const indexTables = ['created', 'families', 'expires'] as const;

/** Scans the store in `folder`, which other processes may have open. */
export async function scanStore(folder: string): Promise<StoreScan> {
  const env = openEnvironment(folder);
  try {
    return { ...scan(env), stats: storeStats(env) };
  } finally {
    await env.close();
  }
}

function scan(env: Environment): Omit<StoreScan, 'stats'> {
  const { tables } = env;
  return env.read((transaction) => {
    // A new object each time: lmdb-js writes to it.
    const all = () => ({ start: Buffer.from([0]), transaction });
    const marked = Array.from(tables.unfinished.getKeys(all()), copyOf);
    const aside = Array.from(tables.quarantine.getKeys(all()), copyOf);
    const spokenFor = new Set([...marked, ...aside].map((key) => key.toString('hex')));
    const contextBytes = new Map(
      Array.from(tables.catalogue.getKeys(all()), (key) => [idOfKey(key), 0]),
    );
    const orphans: string[] = [];
    const add = (table: string, id: string, key: Buffer, valueBytes: number): void => {
      const bytes = contextBytes.get(id);
      if (bytes === undefined) orphans.push(`${table} ${key.toString('hex')}`);
      else contextBytes.set(id, bytes + key.byteLength + valueBytes);
    };
    for (const table of pieceTables) {
      for (const { key, value } of tables[table].getRange(all())) {
        const generation = key.subarray(0, generationKeyByteLength).toString('hex');
        if (!spokenFor.has(generation)) add(table, idOfKey(key), key, value.byteLength);
      }
    }
    for (const table of recordTables) {
      for (const { key, value } of tables[table].getRange(all())) {
        add(table, idOfKey(key), key, value.byteLength);
      }
    }
    for (const table of indexTables) {
      for (const key of tables[table].getKeys(all())) {
        add(table, idOfKey(key.subarray(key.byteLength - idByteLength)), key, 0);
      }
    }
    return { contextBytes, orphans, unfinished: marked.map(idOfKey) };
  });
}

/** Lmdb-js may use the memory of a key again. */
function copyOf(key: Buffer): Buffer {
  return Buffer.from(key);
}

/** Files below a folder, relative to it, in order. */
export function filesBelow(folder: string): readonly string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort();
}
