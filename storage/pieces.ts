import { assert } from '../src/core/assert.ts';
import {
  corruptRecord,
  decodeFrameOf,
  encodeFrame,
  expectFrames,
  frameHeaderBytes,
} from './frame.ts';
import type { Snapshot, Table } from './environment.ts';
import { pieceKey, pieceKeyByteLength } from './keys.ts';
import { pageBytes } from './lmdb-pages.ts';

/** Bytes that LMDB puts before a value which fills pages of its own. */
const overflowHeaderBytes = 24;

/** A value of this size fills 16 pages to the last byte. */
export const defaultPieceBytes = 16 * pageBytes - overflowHeaderBytes;

/** A run of rows of one kind: the pairs or the ranking of a head, or a context's token ids. */
export interface Run {
  readonly kind: 'pairs' | 'ranking' | 'tokens';
  readonly id: string;
  /** Which write of the context; 0 in context files. */
  readonly generation: number;
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
  /** `count · rowBytes` bytes at an address divisible by 8; overwritten by the next read. */
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
  const pagesOf = (rows: number): number => valuePages(frameHeaderBytes + rows * run.rowBytes);
  return (pieces - 1) * pagesOf(fullRows) + pagesOf(lastRows) + keyPages(pieces);
}

/** An upper bound of the pages that some pieces take, as `runPages` of a whole run. */
export function piecesPages(pieces: readonly Piece[]): number {
  const ofValues = pieces.reduce((sum, { value }) => sum + valuePages(value.byteLength), 0);
  return ofValues + keyPages(pieces.length);
}

function valuePages(valueBytes: number): number {
  return Math.ceil((overflowHeaderBytes + valueBytes) / pageBytes);
}

function keyPages(pieces: number): number {
  return Math.ceil(pieces / keysPerPage);
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
 * @param allocate as of `encodeFrame`
 */
export function* cutPieces(
  run: Run,
  columns: readonly Uint8Array[],
  pieceBytes: number,
  allocate?: (bytes: number) => Buffer,
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
    yield { key: pieceKey(header), value: encodeFrame(header, parts, allocate) };
  }
}

/** Rows [from, to) of a run. */
export interface Rows {
  readonly from: number;
  readonly to: number;
}

/**
 * Reads the pieces that hold `rows` of a run, in rank order, each found by the rank where the one
 * before it ended. A piece is verified where lmdb-js has put it, and handed out there.
 * @throws ReadonceError `corrupt_record` when one is missing or fails a check
 */
export function* readPieces(
  table: Table,
  run: Run,
  { from, to }: Rows,
  snapshot: Snapshot,
): Generator<ReadPiece> {
  const { id, kind, layer, head, generation } = run;
  const expected = expectFrames(run);
  const start = from === 0 ? 0 : startOfPiece(table, run, from, snapshot);
  const key = pieceKey({ ...run, firstRank: start });
  for (let firstRank = start; firstRank < to;) {
    const fail = (reason: string) =>
      corruptRecord(id, reason, { kind, layer, head, firstRank, generation });
    key.writeUInt32BE(firstRank, key.byteLength - rankBytes);
    const value = readFast(table, key, snapshot);
    if (value === undefined) throw fail('a missing piece');
    const { count, payload } = decodeFrameOf(value, expected, firstRank);
    if (count === 0 || count > run.rows - firstRank) throw fail('a wrong number of rows');
    if (payload.byteLength !== count * run.rowBytes) throw fail('rows of another size');
    const stamp = headerStamp(value);
    if (firstRank + count > from) yield { firstRank, count, payload };
    assert(headerStamp(value) === stamp, 'a piece is used up before the store is read again');
    firstRank += count;
  }
}

/** The rank at which the piece begins that should hold `rank`. */
function startOfPiece(table: Table, run: Run, rank: number, snapshot: Snapshot): number {
  const wanted = pieceKey({ ...run, firstRank: rank });
  const [found] = table.getKeys({ start: wanted, reverse: true, limit: 1, transaction: snapshot });
  const sameRun =
    found !== undefined &&
    found.byteLength === wanted.byteLength &&
    found.subarray(0, -rankBytes).equals(wanted.subarray(0, -rankBytes));
  return sameRun ? found.readUInt32BE(found.byteLength - rankBytes) : 0;
}

/** Bytes of the rank that ends a piece's key. */
const rankBytes = 4;

/** The checksum that ends a value's header: another value's differs. */
function headerStamp(value: Buffer): number {
  return value.readUInt32LE(frameHeaderBytes - 4);
}

/** Lmdb-js's read without an allocation. Its types leave the options out. */
interface FastReads {
  getBinaryFast(key: Buffer, options: { readonly transaction: Snapshot }): Buffer | undefined;
}

/** A value in lmdb-js's own buffer: valid until the next read. */
function readFast(table: Table, key: Buffer, snapshot: Snapshot): Buffer | undefined {
  const found = (table as FastReads).getBinaryFast(key, { transaction: snapshot });
  if (found === undefined) return undefined;
  assert(found.byteOffset % 8 === 0, "lmdb-js's buffer is aligned");
  // `length`, which lmdb-js sets, is the value's; the buffer itself is longer.
  return Buffer.from(found.buffer, found.byteOffset, found.length);
}
