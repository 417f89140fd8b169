import { z } from 'zod';
import { decodeRecord, encodeRecord, intact } from './catalogue.ts';
import type { QuarantinedContext } from './context-store.ts';
import type { Environment, Snapshot } from './environment.ts';
import { generationKey, generationOfKey, idBytes, keysBehind, type Generation } from './keys.ts';

/** What is kept of a context that was moved aside, beside its pieces. */
export interface QuarantineRecord {
  readonly reason: string;
  readonly quarantinedAtMs: number;
  /** Keys and values of its pieces, bytes. */
  readonly pieceBytes: number;
  /** The values of its catalogue and usage records, as they were; null: it had none. */
  readonly catalogue: Uint8Array | null;
  readonly usage: Uint8Array | null;
}

const bytes = z.instanceof(Uint8Array).nullable();

const quarantineSchema: z.ZodType<QuarantineRecord> = z.strictObject({
  reason: z.string(),
  quarantinedAtMs: z.number().nonnegative(),
  pieceBytes: z.int().nonnegative(),
  catalogue: bytes,
  usage: bytes,
});

/** Writes down that a generation is quarantined. Call in a write transaction. */
export function putQuarantine(env: Environment, of: Generation, record: QuarantineRecord): void {
  env.tables.quarantine.putSync(generationKey(of), encodeRecord('quarantine', of.id, record));
}

/** Removes what `putQuarantine` wrote. Call in a write transaction. */
export function removeQuarantine({ tables }: Environment, of: Generation): void {
  tables.quarantine.removeSync(generationKey(of));
}

/** The quarantined generations (of one context; there is at most one). */
export function quarantinedGenerations(
  { tables }: Environment,
  options: { readonly id?: string; readonly snapshot?: Snapshot },
): Generation[] {
  const { id, snapshot } = options;
  const range = id === undefined ? { start: Buffer.from([0]) } : keysBehind(idBytes(id));
  const view = snapshot === undefined ? {} : { transaction: snapshot };
  return Array.from(tables.quarantine.getKeys({ ...range, ...view }), generationOfKey);
}

/** A quarantined generation, as listed. */
export interface FoundQuarantine extends QuarantinedContext, Generation {}

/** What is in quarantine, the longest kept first. One with a broken record counts as oldest. */
export function readQuarantine(env: Environment): FoundQuarantine[] {
  const found = env.read((snapshot) =>
    Array.from(
      env.tables.quarantine.getRange({ start: Buffer.from([0]), transaction: snapshot }),
      ({ key, value }) => describe(generationOfKey(key), key.byteLength, value),
    ),
  );
  return found.sort((a, b) => a.quarantinedAtMs - b.quarantinedAtMs);
}

function describe(of: Generation, keyBytes: number, value: Buffer): FoundQuarantine {
  const record = intact(() => decodeRecord('quarantine', of.id, value, quarantineSchema));
  return {
    ...of,
    reason: record?.reason ?? 'unknown: the record that says it is damaged',
    quarantinedAtMs: record?.quarantinedAtMs ?? 0,
    bytes: keyBytes + value.byteLength + (record?.pieceBytes ?? 0),
  };
}
