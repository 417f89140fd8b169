import { assert } from '../src/core/assert.ts';
import { corruptRecord, decodeFrame, encodeFrame, frameHeaderBytes } from './frame.ts';
import { pageBytes, type Snapshot, type Table } from './environment.ts';
import { pieceKey, pieceKeyByteLength } from './keys.ts';

/** Bytes that LMDB puts before a value which fills pages of its own. */
const overflowHeaderBytes = 24;

/** A value of this size fills 16 pages to the last byte. */
export const defaultPieceBytes = 16 * pageBytes - overflowHeaderBytes;

/** A run of rows of one kind: the pairs or the ranking of a head, or a context's token ids. */
export interface Run {
  readonly kind: 'pairs' | 'ranking' | 'tokens';
  readonly id: string;
  /** 0 for tokens, as `head`. */
  readonly layer: number;
  /** KV head within the layer. */
  readonly head: number;
  /** Precision of the rows, see `FrameHeader`. */
  readonly precision: string;
  readonly rows: number;
  readonly rowBytes: number;
}

/** A value ready to be stored. */
export interface Piece {
  readonly key: Buffer;
  readonly value: Buffer;
}

/** A verified piece. */
export interface ReadPiece {
  readonly firstRank: number;
  readonly count: number;
  /** `count · rowBytes` bytes at an address divisible by 8; overwritten by the next piece. */
  readonly payload: Uint8Array;
}

/** Rows that fit a piece; at least one. */
export function rowsPerPiece(pieceBytes: number, rowBytes: number): number {
  const rows = Math.floor((pieceBytes - frameHeaderBytes) / rowBytes);
  assert(rows >= 1, `expected a piece to hold a row of ${rowBytes} bytes but it has ${pieceBytes}`);
  return rows;
}

/** Bytes of all keys and values of a run. */
export function runBytes(run: Run, pieceBytes: number): number {
  return (
    run.rows * run.rowBytes + pieceCount(run, pieceBytes) * (frameHeaderBytes + pieceKeyByteLength)
  );
}

/** An upper bound of the pages that a run takes: each piece rounded up, and its key in the tree. */
export function runPages(run: Run, pieceBytes: number): number {
  const pieces = pieceCount(run, pieceBytes);
  if (pieces === 0) return 0;
  const fullRows = rowsPerPiece(pieceBytes, run.rowBytes);
  const lastRows = run.rows - (pieces - 1) * fullRows;
  const pagesOf = (rows: number): number =>
    Math.ceil((overflowHeaderBytes + frameHeaderBytes + rows * run.rowBytes) / pageBytes);
  const keyPages = Math.ceil(pieces / keysPerPage);
  return (pieces - 1) * pagesOf(fullRows) + pagesOf(lastRows) + keyPages;
}

/** Keys that a half-full leaf page surely holds. */
const keysPerPage = 30;

function pieceCount(run: Run, pieceBytes: number): number {
  return Math.ceil(run.rows / rowsPerPiece(pieceBytes, run.rowBytes));
}

/**
 * Cuts a run into pieces.
 * @param columns the arrays a row has an entry in (keys and values; positions and scores): a piece
 * holds the entries of its rows column by column. Their row sizes sum to `run.rowBytes`.
 */
export function* cutPieces(
  run: Run,
  columns: readonly Uint8Array[],
  pieceBytes: number,
): Generator<Piece> {
  const size = columns.reduce((sum, column) => sum + column.byteLength, 0);
  assert(size === run.rows * run.rowBytes, 'a run has its rows, each of one size');
  const step = rowsPerPiece(pieceBytes, run.rowBytes);
  for (let firstRank = 0; firstRank < run.rows; firstRank += step) {
    const end = Math.min(firstRank + step, run.rows);
    const parts = columns.map((column) => {
      const columnBytes = column.byteLength / run.rows;
      return column.subarray(firstRank * columnBytes, end * columnBytes);
    });
    const header = { ...run, firstRank, count: end - firstRank };
    yield { key: pieceKey(header), value: encodeFrame(header, parts) };
  }
}

/**
 * Reads the pieces that hold the first `rows` rows of a run, in rank order, each found by the rank
 * where the one before it ended.
 * @throws ReadonceError `corrupt_record` when one is missing or fails a check
 */
export function* readPieces(
  table: Table,
  run: Run,
  rows: number,
  snapshot: Snapshot,
): Generator<ReadPiece> {
  let copy = new Uint8Array(0);
  for (let firstRank = 0; firstRank < rows;) {
    const address = { ...run, firstRank };
    const found = readFast(table, pieceKey(address), snapshot);
    const { kind, layer, head } = run;
    const fail = (reason: string) =>
      corruptRecord(run.id, reason, { kind, layer, head, firstRank });
    if (found === undefined) throw fail('a missing piece');
    // The next read, anyone's, overwrites what was found.
    if (copy.byteLength < found.byteLength) copy = new Uint8Array(found.byteLength);
    const value = copy.subarray(0, found.byteLength);
    value.set(found);
    const { count, payload } = decodeFrame(value, address);
    if (count === 0 || count > run.rows - firstRank) throw fail('a wrong number of rows');
    if (payload.byteLength !== count * run.rowBytes) throw fail('rows of another size');
    yield { firstRank, count, payload };
    firstRank += count;
  }
}

/** Lmdb-js's read without an allocation. Its types leave the options out. */
interface FastReads {
  getBinaryFast(key: Buffer, options: { readonly transaction: Snapshot }): Buffer | undefined;
}

/** A value in lmdb-js's own buffer: valid until the next read. */
function readFast(table: Table, key: Buffer, snapshot: Snapshot): Uint8Array | undefined {
  const found = (table as FastReads).getBinaryFast(key, { transaction: snapshot });
  // `length`, which lmdb-js sets, is the value's; the buffer itself is longer.
  return found?.subarray(0, found.length);
}
