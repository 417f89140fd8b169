import type { StoredContext } from '../src/core/context.ts';
import { findContext, intact } from './catalogue.ts';
import { crc32 } from './checksum.ts';
import type { Environment } from './environment.ts';
import { idOfKey } from './keys.ts';

/** What counting the store, and making room in it, need of a context. */
export interface Footprint {
  readonly id: string;
  /** Keys and values, bytes. */
  readonly diskBytes: number;
  readonly pinned: boolean;
  readonly lastUsedAtMs: number;
  readonly expiresAtMs: number | null;
}

/** Of every context whose records are intact, and how many there are of the others. */
export interface Footprints {
  readonly intact: readonly Footprint[];
  readonly damaged: number;
}

interface KnownFootprint {
  /** CRC-32 of the values it was read from. */
  readonly catalogue: number;
  readonly usage: number;
  readonly footprint: Footprint;
}

/** How many are remembered, at about 200 bytes each. */
const rememberedFootprints = 65_536;

const remembered = new WeakMap<Environment, ReadonlyMap<string, KnownFootprint>>();

/**
 * Reads every context's records. To decode them costs 30 times what it costs to read them, so what
 * has the checksum that it had the last time is not decoded again: a full store of 10,000 contexts
 * would keep a write, and everything else on its thread, waiting for more than a second.
 */
export function readFootprints(env: Environment): Footprints {
  const before = remembered.get(env) ?? new Map<string, KnownFootprint>();
  const now = new Map<string, KnownFootprint>();
  const found: Footprint[] = [];
  const contexts = env.read((transaction) => {
    const keys = Array.from(env.tables.catalogue.getKeys({ start: Buffer.from([0]), transaction }));
    for (const key of keys) {
      const id = idOfKey(key);
      const catalogue = checksum(env.tables.catalogue.get(key, { transaction }));
      const usage = checksum(env.tables.usage.get(key, { transaction }));
      const known = before.get(id);
      const same = known?.catalogue === catalogue && known.usage === usage;
      const footprint = same
        ? known.footprint
        : intact(() => footprintOf(findContext(env, id, transaction)?.stored));
      if (footprint === undefined) continue;
      found.push(footprint);
      if (now.size < rememberedFootprints) now.set(id, { catalogue, usage, footprint });
    }
    return keys.length;
  });
  remembered.set(env, now);
  return { intact: found, damaged: contexts - found.length };
}

function footprintOf(stored: StoredContext | undefined): Footprint | undefined {
  if (stored === undefined) return undefined;
  const { record, usage, diskBytes } = stored;
  const { pinned, lastUsedAtMs, expiresAtMs } = usage;
  return { id: record.id, diskBytes, pinned, lastUsedAtMs, expiresAtMs };
}

function checksum(value: Buffer | undefined): number {
  return value === undefined ? 0 : crc32(value);
}
