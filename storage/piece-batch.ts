import type { Claim } from './claim.ts';
import type { TableName } from './environment.ts';
import { piecesPages, type Piece } from './pieces.ts';
import type { PieceBatch } from './put-batch.ts';

/** A piece, and the table it goes to. */
export interface TablePiece extends Piece {
  readonly table: TableName;
}

/** A batch of pieces whose values all lie in `memory`. */
export function pieceBatch(
  claim: Claim,
  pieces: readonly TablePiece[],
  memory: ArrayBuffer,
): PieceBatch {
  const placed = pieces.map(({ table, key, value: { byteOffset: start, byteLength } }) => ({
    table,
    key,
    start,
    byteLength,
  }));
  return { claim, pieces: placed, pages: piecesPages(pieces), memory };
}
