import { Packr } from 'msgpackr';
import { z } from 'zod';
import { ReadonceError } from '../src/core/errors.ts';
import { headCount } from '../src/core/kv-layout.ts';
import { contextIdPattern, familyIdPattern } from '../src/core/identity.ts';
import type { ContextRecord, ContextUsage, StoredContext } from '../src/core/context.ts';
import type { Environment, Snapshot, TableName } from './environment.ts';
import { corruptRecord, decodeFrame, encodeFrame, type FrameKind } from './frame.ts';
import { createdKey, expiryKey, familyKey, idByteLength, idBytes } from './keys.ts';

/** What is known of a context's bytes once its pieces are written. */
export interface ContextSizes {
  /** Bytes of one encoded key (or value). */
  readonly rowBytes: number;
  /** Keys, values and quantisation parameters of all heads, bytes. */
  readonly storedBytes: number;
  /** Keys and values of the store that hold pieces (segments, rankings, tokens), bytes. */
  readonly pieceBytes: number;
}

/** A catalogue record: what never changes about a stored context. */
export interface CatalogueEntry {
  readonly record: ContextRecord;
  /** In the keys and headers of its pieces. */
  readonly generation: number;
  readonly sizes: ContextSizes;
}

/** A stored context as the store itself sees it. */
export interface FoundContext extends CatalogueEntry {
  readonly stored: StoredContext;
}

const count = z.int().nonnegative();
const milliseconds = z.number().nonnegative();
const text = z.string();

/** A context's record as stored, and in a context file: strict, with a pair count for each head. */
export const recordSchema: z.ZodType<ContextRecord> = z
  .strictObject({
    id: z.string().regex(contextIdPattern),
    family: z.string().regex(familyIdPattern),
    tenant: text,
    model: z.strictObject({ id: text, fingerprint: text }),
    document: z.strictObject({ bytes: count, tokens: count, sha256: text }),
    compression: z.strictObject({
      method: text,
      keepRatio: z.number().positive().max(1),
      budget: text,
      precision: text,
    }),
    methodVersion: count,
    chunkTokens: count,
    fidelity: z
      .strictObject({ agreement: z.number(), nllFull: z.number(), nllCompact: z.number() })
      .nullable(),
    layout: z.strictObject({
      layers: z.int().positive(),
      kvHeads: z.int().positive(),
      group: z.int().positive(),
      headDim: z.int().positive(),
    }),
    prefixTokens: count,
    pairCounts: z.array(count),
    timings: z.strictObject({
      prefillMs: milliseconds,
      scoreMs: milliseconds,
      persistMs: milliseconds,
      totalMs: milliseconds,
    }),
    createdAtMs: count,
  })
  .refine((record) => record.pairCounts.length === headCount(record.layout), {
    error: 'expected a pair count for each head',
  });

const entrySchema: z.ZodType<CatalogueEntry> = z.strictObject({
  record: recordSchema,
  generation: z.int().positive(),
  sizes: z.strictObject({ rowBytes: count, storedBytes: count, pieceBytes: count }),
});

const usageSchema: z.ZodType<ContextUsage> = z.strictObject({
  lastUsedAtMs: count,
  expiresAtMs: count.nullable(),
  pinned: z.boolean(),
  labels: z.record(z.string(), z.string()),
});

/** Plain maps: a record must be readable without state kept elsewhere. */
const packr = new Packr({ useRecords: false });

/** `content` as a record of `kind`. */
export function encodeRecord(kind: FrameKind, id: string, content: unknown): Buffer {
  return encodeFrame(recordHeader(kind, id), [packr.pack(content)]);
}

/**
 * The content of a record, verified and validated.
 * @throws ReadonceError `corrupt_record`
 */
export function decodeRecord<T>(
  kind: FrameKind,
  id: string,
  value: Uint8Array,
  schema: z.ZodType<T>,
): T {
  const { payload } = decodeFrame(value, recordHeader(kind, id));
  try {
    return schema.parse(packr.unpack(payload));
  } catch (error) {
    throw corruptRecord(id, 'unexpected content', { kind }, error);
  }
}

function recordHeader(kind: FrameKind, id: string) {
  return { kind, precision: '', id, layer: 0, head: 0, firstRank: 0, count: 1 } as const;
}

/**
 * The catalogue's view of a context, or undefined if it is not there. Inside a write transaction
 * leave `snapshot` out: reads then see the transaction.
 * @throws ReadonceError `corrupt_record`
 */
export function findContext(
  env: Environment,
  id: string,
  snapshot?: Snapshot,
): FoundContext | undefined {
  const found = findEntry(env, id, snapshot);
  if (found === undefined) return undefined;
  const { entry } = found;
  const usageValue = env.tables.usage.get(idBytes(id), viewOf(snapshot));
  if (usageValue === undefined) throw corruptRecord(id, 'no usage record');
  const usage = decodeRecord('usage', id, usageValue, usageSchema);
  const indexBytes = indexKeys(entry.record, usage).reduce(
    (sum, { key }) => sum + key.byteLength,
    0,
  );
  const recordBytes = 2 * idByteLength + found.valueBytes + usageValue.byteLength + indexBytes;
  return {
    ...entry,
    stored: {
      record: entry.record,
      usage,
      storedBytes: entry.sizes.storedBytes,
      diskBytes: entry.sizes.pieceBytes + recordBytes,
    },
  };
}

/** A verified catalogue record and the bytes it takes. */
export interface FoundEntry {
  readonly entry: CatalogueEntry;
  readonly valueBytes: number;
}

/** As `findContext`, without its usage. */
export function findEntry(
  env: Environment,
  id: string,
  snapshot?: Snapshot,
): FoundEntry | undefined {
  if (!contextIdPattern.test(id)) return undefined;
  // Lmdb-js's binary `get` copies, so the value outlives the next read.
  const value = env.tables.catalogue.get(idBytes(id), viewOf(snapshot));
  if (value === undefined) return undefined;
  return { entry: decodeEntry(env, id, value), valueBytes: value.byteLength };
}

/** How many decoded catalogue records are remembered: those that the heads being read need. */
const rememberedEntries = 16;

interface RememberedEntry {
  readonly value: Buffer;
  readonly entry: CatalogueEntry;
}

const remembered = new WeakMap<Environment, Map<string, RememberedEntry>>();

/** Decoding costs more than a piece. The same bytes say the same, so they are decoded once. */
function decodeEntry(env: Environment, id: string, value: Buffer): CatalogueEntry {
  const entries = remembered.get(env) ?? new Map<string, RememberedEntry>();
  remembered.set(env, entries);
  const known = entries.get(id);
  if (known?.value.equals(value) === true) return known.entry;
  const entry = decodeRecord('catalogue', id, value, entrySchema);
  if (entry.record.id !== id) throw corruptRecord(id, "another context's catalogue record");
  entries.set(id, { value, entry });
  const [oldest] = entries.keys();
  if (entries.size > rememberedEntries && oldest !== undefined) entries.delete(oldest);
  return entry;
}

function viewOf(snapshot: Snapshot | undefined) {
  return snapshot === undefined ? {} : { transaction: snapshot };
}

/** A key of an index; the value is empty. */
export interface IndexKey {
  readonly table: Extract<TableName, 'created' | 'families' | 'expires'>;
  readonly key: Buffer;
}

/** Where the indexes name a context. */
export function indexKeys(record: ContextRecord, usage: ContextUsage): readonly IndexKey[] {
  const { expiresAtMs } = usage;
  const { id } = record;
  return [
    { table: 'created', key: createdKey(record) },
    { table: 'families', key: familyKey(record) },
    ...(expiresAtMs === null
      ? []
      : ([{ table: 'expires', key: expiryKey({ id, expiresAtMs }) }] as const)),
  ];
}

/** Makes a context visible. Call in a write transaction, after its pieces. */
export function putContext(env: Environment, entry: CatalogueEntry, usage: ContextUsage): void {
  const { id } = entry.record;
  const { tables } = env;
  tables.catalogue.putSync(idBytes(id), encodeRecord('catalogue', id, entrySchema.parse(entry)));
  tables.usage.putSync(idBytes(id), encodeRecord('usage', id, usageSchema.parse(usage)));
  for (const { table, key } of indexKeys(entry.record, usage)) putIndexKey(env, { table, key });
}

/** Adds a key to an index. Call in a write transaction. */
export function putIndexKey({ tables }: Environment, { table, key }: IndexKey): void {
  tables[table].putSync(key, Buffer.alloc(0));
}

/** Replaces the usage of a context as it was found. Call in the same write transaction. */
export function putUsage(env: Environment, found: StoredContext, usage: ContextUsage): void {
  const { record } = found;
  const { tables } = env;
  for (const { table, key } of indexKeys(record, found.usage)) tables[table].removeSync(key);
  tables.usage.putSync(
    idBytes(record.id),
    encodeRecord('usage', record.id, usageSchema.parse(usage)),
  );
  for (const indexKey of indexKeys(record, usage)) putIndexKey(env, indexKey);
}

/**
 * Makes a context invisible, whatever state its records are in. Call in a write transaction. Index
 * keys that cannot be told from broken records are left to the sweep.
 */
export function removeFromCatalogue(env: Environment, id: string): void {
  const stored = intact(() => findContext(env, id)?.stored);
  if (stored !== undefined) {
    for (const { table, key } of indexKeys(stored.record, stored.usage)) {
      env.tables[table].removeSync(key);
    }
  }
  env.tables.catalogue.removeSync(idBytes(id));
  env.tables.usage.removeSync(idBytes(id));
}

/** What `find` finds; undefined, and told to `warn`, if it is corrupt. */
export function intact<T>(
  find: () => T,
  warn: (error: ReadonceError) => void = () => undefined,
): T | undefined {
  try {
    return find();
  } catch (error) {
    if (!(error instanceof ReadonceError) || error.code !== 'corrupt_record') throw error;
    warn(error);
    return undefined;
  }
}
