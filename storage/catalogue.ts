import { Packr } from 'msgpackr';
import { z } from 'zod';
import { headCount } from '../src/core/kv-layout.ts';
import { contextIdPattern } from '../src/core/identity.ts';
import type { ContextRecord, ContextUsage, StoredContext } from '../src/core/context.ts';
import type { Environment, Snapshot } from './environment.ts';
import { corruptRecord, decodeFrame, encodeFrame, type FrameKind } from './frame.ts';
import { createdKey, createdKeyByteLength, idByteLength, idBytes } from './keys.ts';

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
  readonly sizes: ContextSizes;
}

/** A stored context as the store itself sees it. */
export interface FoundContext extends CatalogueEntry {
  readonly stored: StoredContext;
}

const count = z.int().nonnegative();
const milliseconds = z.number().nonnegative();
const text = z.string();

const recordSchema: z.ZodType<ContextRecord> = z
  .strictObject({
    id: z.string().regex(contextIdPattern),
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
  { tables }: Environment,
  id: string,
  snapshot?: Snapshot,
): FoundContext | undefined {
  if (!contextIdPattern.test(id)) return undefined;
  const key = idBytes(id);
  const options = snapshot === undefined ? {} : { transaction: snapshot };
  // Lmdb-js's binary `get` copies, so the value outlives the next read.
  const entryValue = tables.catalogue.get(key, options);
  if (entryValue === undefined) return undefined;
  const usageValue = tables.usage.get(key, options);
  if (usageValue === undefined) throw corruptRecord(id, 'no usage record');
  const entry = decodeRecord('catalogue', id, entryValue, entrySchema);
  if (entry.record.id !== id) throw corruptRecord(id, "another context's catalogue record");
  const usage = decodeRecord('usage', id, usageValue, usageSchema);
  const recordBytes =
    2 * idByteLength + entryValue.byteLength + usageValue.byteLength + createdKeyByteLength;
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

/** Makes a context visible. Call in a write transaction, after its pieces are durable. */
export function putContext(env: Environment, entry: CatalogueEntry, usage: ContextUsage): void {
  const { id } = entry.record;
  const key = idBytes(id);
  env.tables.catalogue.putSync(key, encodeRecord('catalogue', id, entrySchema.parse(entry)));
  putUsage(env, id, usage);
  env.tables.created.putSync(createdKey(entry.record), Buffer.alloc(0));
}

/** Replaces a context's usage. Call in a write transaction. */
export function putUsage({ tables }: Environment, id: string, usage: ContextUsage): void {
  tables.usage.putSync(idBytes(id), encodeRecord('usage', id, usageSchema.parse(usage)));
}

/**
 * Makes a context invisible, whatever state its records are in. Call in a write transaction. An
 * index key that cannot be told from a broken record is left to the sweep.
 */
export function removeFromCatalogue(env: Environment, id: string): void {
  const key = idBytes(id);
  const record = intactRecord(env, id);
  if (record !== undefined) env.tables.created.removeSync(createdKey(record));
  env.tables.catalogue.removeSync(key);
  env.tables.usage.removeSync(key);
}

function intactRecord(env: Environment, id: string): ContextRecord | undefined {
  try {
    return findContext(env, id)?.record;
  } catch {
    return undefined;
  }
}
