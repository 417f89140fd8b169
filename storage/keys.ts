import { createHash } from 'node:crypto';
import { assert } from '../src/core/assert.ts';
import { contextIdPattern } from '../src/core/identity.ts';

/** Bytes of a context id in keys and headers: the 160 bits behind `ctx_`. */
export const idByteLength = 20;

/** Bytes of a piece's key: id, layer u16, head u16, first rank u32. */
export const pieceKeyByteLength = idByteLength + 8;

/** Bytes of an index key: tenant, time, id. */
export const createdKeyByteLength = 16 + 8 + idByteLength;

/** Which run of rows a piece belongs to, and where in it the piece begins. */
export interface PieceAddress {
  readonly id: string;
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

/** Big-endian, so that LMDB's byte order is rank order in a head and head order in a context. */
export function pieceKey(address: PieceAddress): Buffer {
  const key = Buffer.alloc(pieceKeyByteLength);
  idBytes(address.id).copy(key);
  key.writeUInt16BE(address.layer, idByteLength);
  key.writeUInt16BE(address.head, idByteLength + 2);
  key.writeUInt32BE(address.firstRank, idByteLength + 4);
  return key;
}

/** The half-open key range of all pieces of a context. */
export function pieceKeyRange(id: string): { readonly start: Buffer; readonly end: Buffer } {
  const start = idBytes(id);
  const pastEveryKey = Buffer.alloc(pieceKeyByteLength - idByteLength + 1, 0xff);
  return { start, end: Buffer.concat([start, pastEveryKey]) };
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

/** A fixed-width stand-in for a tenant's name, whatever its length. */
export function tenantPrefix(tenant: string): Buffer {
  return createHash('sha256').update(tenant, 'utf8').digest().subarray(0, 16);
}
