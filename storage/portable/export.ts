import { createHash } from 'node:crypto';
import { assert } from '../../src/core/assert.ts';
import type { ContextRecord, StoredContext } from '../../src/core/context.ts';
import { concatenate } from '../../src/core/concatenate.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import { tokenBytes } from '../../src/core/identity.ts';
import type { ContextStore, HeadPairs, RowRange } from '../context-store.ts';
import { encodeFrame } from '../frame.ts';
import { cutPieces, type Run } from '../pieces.ts';
import { pairsRun, rankingRun, tokensRun } from '../runs.ts';
import { encodePreamble, portableLimits, rowsPerFrame } from './format.ts';
import { encodeManifest, excessOf } from './manifest.ts';
import { nobody, ownedBy } from './owner.ts';

/**
 * A stored context as a file (PORTABLE.md), in parts of at most 1 MiB, read as they are asked for:
 * nothing of the store is held between two parts, however slowly they are taken. The same context
 * gives the same bytes, whatever the store's piece size and whoever owns it: in the file it has the
 * ids that it would have without tenants.
 * @throws ReadonceError `not_found` (also when it is deleted or replaced meanwhile),
 *   `corrupt_record`, `unsupported` for a context larger than files may be
 */
export async function* exportContext(store: ContextStore, id: string): AsyncGenerator<Uint8Array> {
  const digest = createHash('sha256');
  for (const part of parts(store, id)) {
    digest.update(part);
    yield part;
  }
  yield digest.digest();
}

function* parts(store: ContextStore, id: string): Generator<Uint8Array> {
  const { record: stored, usage, rowBytes } = portableContext(store, id);
  const tokens = store.tokenIds(id);
  const record = stored.tenant === '' ? stored : ownedBy(stored, tokens, nobody);
  yield encodePreamble(record.id);
  yield encodeManifest({ record, labels: usage.labels });
  const { prefixIds, documentIds } = tokens;
  yield* framesOf(tokensRun(record), [tokenBytes(concatenate(prefixIds, documentIds))]);
  for (const head of record.pairCounts.keys()) {
    const { positions, scores } = store.readRanking(id, head);
    yield* framesOf(rankingRun(record, head), [bytesOf(positions), bytesOf(scores)]);
  }
  for (const head of record.pairCounts.keys()) {
    const readRows = (range: RowRange) => store.readPairs(id, head, range);
    yield* pairFrames(readRows, pairsRun(record, head, rowBytes));
  }
  requireUnchanged(store, stored);
}

/** One that was deleted and made anew while its file was read may have other rows. */
function requireUnchanged(store: ContextStore, { id, createdAtMs }: ContextRecord): void {
  if (store.get(id)?.record.createdAtMs === createdAtMs) return;
  throw new ReadonceError(
    'not_found',
    `Expected ${id} to stay while it was exported but it was deleted or replaced; export it again`,
    { details: { id } },
  );
}

function portableContext(store: ContextStore, id: string) {
  const stored = store.get(id);
  if (stored === undefined) {
    throw new ReadonceError('not_found', `Expected ${id} in the store but it is not there`, {
      details: { id },
    });
  }
  const rowBytes = rowBytesOf(stored);
  const excess = excessOf(stored.record, rowBytes);
  if (excess === undefined) return { ...stored, rowBytes };
  throw new ReadonceError(
    'unsupported',
    `Expected a context that fits a file but got ${excess}; it cannot be exported`,
    { details: { id } },
  );
}

/** Of one key (or value), from what all of them take. */
function rowBytesOf({ record, storedBytes }: StoredContext): number {
  const pairs = record.pairCounts.reduce((sum, count) => sum + count, 0);
  const rowBytes = pairs === 0 ? 1 : storedBytes / (2 * pairs);
  assert(Number.isInteger(rowBytes), 'all rows have one size');
  return rowBytes;
}

function* framesOf(run: Run, columns: readonly Uint8Array[]): Generator<Uint8Array> {
  for (const { value } of cutPieces(run, columns, portableLimits.frameBytes)) yield value;
}

/** One read of the store for each frame: no iterator, and no snapshot, waits for the reader. */
function* pairFrames(
  readRows: (range: RowRange) => Iterable<HeadPairs>,
  run: Run,
): Generator<Uint8Array> {
  const step = rowsPerFrame(run.rowBytes);
  for (let firstRank = 0; firstRank < run.rows; firstRank += step) {
    const to = Math.min(firstRank + step, run.rows);
    const count = to - firstRank;
    const { keys, values } = gather(readRows({ from: firstRank, to }), (count * run.rowBytes) / 2);
    yield encodeFrame({ ...run, firstRank, count }, [keys, values]);
  }
}

/** Copies pieces into one; `columnBytes` are those of all their keys. */
function gather(
  pieces: Iterable<HeadPairs>,
  columnBytes: number,
): { readonly keys: Uint8Array; readonly values: Uint8Array } {
  const keys = new Uint8Array(columnBytes);
  const values = new Uint8Array(columnBytes);
  let filled = 0;
  for (const piece of pieces) {
    keys.set(piece.keys, filled);
    values.set(piece.values, filled);
    filled += piece.keys.byteLength;
  }
  assert(filled === columnBytes, 'the store reads the rows that were asked for');
  return { keys, values };
}

function bytesOf(array: Uint32Array | Float32Array): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}
