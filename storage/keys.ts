import { createHash } from 'node:crypto';
import { assert } from '../src/core/assert.ts';
import { contextIdPattern, familyIdPattern } from '../src/core/identity.ts';

/** Bytes of a context id in keys and headers: the 160 bits behind `ctx_`. */
export const idByteLength = 20;

/** Bytes of the key of one write of a context: id, generation u32. */
export const generationKeyByteLength = idByteLength + 4;

/** Bytes of a piece's key: id, generation u32, layer u16, head u16, first rank u32. */
export const pieceKeyByteLength = generationKeyByteLength + 8;

/** Bytes of an index key: tenant, time, id. */
export const createdKeyByteLength = 16 + 8 + idByteLength;

/** Bytes of a key of the index by family: family, id. */
export const familyKeyByteLength = 2 * idByteLength;

/** Bytes of a key of the index by expiry: time, id. */
export const expiryKeyByteLength = 8 + idByteLength;

/**
 * One write of a context. What is written anew has another generation than what was there before,
 * so that its pieces never meet those of a quarantined or half-removed one.
 */
export interface Generation {
  readonly id: string;
  /** u32, counted from 1. */
  readonly generation: number;
}

/** Which run of rows a piece belongs to, and where in it the piece begins. */
export interface PieceAddress extends Generation {
  readonly layer: number;
  readonly head: number;
  /** Rank of the piece's first row. */
  readonly firstRank: number;
}

/** The 20 bytes of `ctx_<40 hex digits>`. */
export function idBytes(id: string): Buffer {
  assert(contextIdPattern.test(id), `expected a context id but got ${id}`);
  return Buffer.from(id.slice('ctx_'.length), 'hex');
}

/** The context id that begins `key`. */
export function idOfKey(key: Uint8Array): string {
  return `ctx_${Buffer.from(key.subarray(0, idByteLength)).toString('hex')}`;
}

/** Key of one write of a context, and what the keys of its pieces begin with. */
export function generationKey({ id, generation }: Generation): Buffer {
  const key = Buffer.alloc(generationKeyByteLength);
  idBytes(id).copy(key);
  key.writeUInt32BE(generation, idByteLength);
  return key;
}

/** The write of a context whose key begins `key`. */
export function generationOfKey(key: Uint8Array): Generation {
  const generation = Buffer.from(key.subarray(idByteLength, generationKeyByteLength));
  return { id: idOfKey(key), generation: generation.readUInt32BE() };
}

/** Big-endian, so that LMDB's byte order is rank order in a head and head order in a context. */
export function pieceKey(address: PieceAddress): Buffer {
  const key = Buffer.alloc(pieceKeyByteLength);
  generationKey(address).copy(key);
  key.writeUInt16BE(address.layer, generationKeyByteLength);
  key.writeUInt16BE(address.head, generationKeyByteLength + 2);
  key.writeUInt32BE(address.firstRank, generationKeyByteLength + 4);
  return key;
}

/** A half-open range of keys, as lmdb-js takes it. */
export interface KeyRange {
  readonly start: Buffer;
  readonly end: Buffer;
}

/** The range of all keys that begin with `prefix`; none is longer than a piece's. */
export function keysBehind(prefix: Buffer): KeyRange {
  return { start: prefix, end: Buffer.concat([prefix, Buffer.alloc(pieceKeyByteLength, 0xff)]) };
}

/** What an index key is made of. */
export interface CreatedEntry {
  readonly tenant: string;
  readonly createdAtMs: number;
  readonly id: string;
}

/**
 * Key of the index by creation: the tenant's hash, the time counted down from 2^53 - 1 so that a
 * forward scan meets the newest first, then the id.
 */
export function createdKey(entry: CreatedEntry): Buffer {
  const time = Buffer.alloc(8);
  time.writeBigUInt64BE(BigInt(Number.MAX_SAFE_INTEGER - entry.createdAtMs));
  return Buffer.concat([tenantPrefix(entry.tenant), time, idBytes(entry.id)]);
}

/** Key of the index by expiry: the first to expire comes first. */
export function expiryKey(entry: { readonly expiresAtMs: number; readonly id: string }): Buffer {
  const time = Buffer.alloc(8);
  time.writeBigUInt64BE(BigInt(entry.expiresAtMs));
  return Buffer.concat([time, idBytes(entry.id)]);
}

/** Key of the index by family: the family's hash, then the id. */
export function familyKey({
  family,
  id,
}: {
  readonly family: string;
  readonly id: string;
}): Buffer {
  return Buffer.concat([familyPrefix(family), idBytes(id)]);
}

/** What the index keys of a family begin with: the 20 bytes of `fam_<40 hex digits>`. */
export function familyPrefix(family: string): Buffer {
  assert(familyIdPattern.test(family), `expected a family id but got ${family}`);
  return Buffer.from(family.slice('fam_'.length), 'hex');
}

/** A fixed-width stand-in for a tenant's name, whatever its length. */
export function tenantPrefix(tenant: string): Buffer {
  return createHash('sha256').update(tenant, 'utf8').digest().subarray(0, 16);
}
