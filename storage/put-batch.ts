import { requireMark, type Claim } from './claim.ts';
import type { TableName } from './environment.ts';
import { hasRoom, type Room } from './room.ts';

/** Pieces of a write that are stored in one transaction. */
export interface PieceBatch {
  readonly claim: Claim;
  readonly pieces: readonly BatchPiece[];
  /** An upper bound of what they take, see `piecesPages`. */
  readonly pages: number;
  /** Holds the values. */
  readonly memory: ArrayBuffer;
}

/** A piece whose value lies in the memory of its batch. */
export interface BatchPiece {
  readonly table: TableName;
  readonly key: Uint8Array;
  readonly start: number;
  readonly byteLength: number;
}

/** What has become of a batch. */
export interface PutResult {
  /** False: there is no room for it by now, and nothing was stored. */
  readonly isStored: boolean;
  /** The batch's, as it was. */
  readonly memory: ArrayBuffer;
}

/**
 * Stores a batch in one transaction. Blocks until it is on disk.
 * @throws ReadonceError `conflict` if another process took the write over, `storage_full`
 */
export function putBatch(store: Room, { claim, pieces, pages, memory }: PieceBatch): PutResult {
  const { env } = store;
  const isStored = env.transact(() => {
    requireMark(env, claim);
    if (!hasRoom(store, pages)) return false;
    for (const { table, key, start, byteLength } of pieces) {
      env.tables[table].putSync(Buffer.from(key), Buffer.from(memory, start, byteLength));
    }
    return true;
  }, 'ordered');
  return { isStored, memory };
}
