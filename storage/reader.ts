import { assert } from '../src/core/assert.ts';
import { ReadonceError } from '../src/core/errors.ts';
import { findEntry, type CatalogueEntry } from './catalogue.ts';
import type { HeadPairs, HeadRanking, RowRange, TokenIds } from './context-store.ts';
import type { Environment, Snapshot } from './environment.ts';
import { readPieces } from './pieces.ts';
import { pairsRun, rankingRun, tokensRun } from './runs.ts';

/** See `ContextStore.readPairs`. `onRead` hears of the bytes of each piece. */
export function* readPairs(
  env: Environment,
  options: { readonly id: string; readonly head: number; readonly range: RowRange },
  onRead: (bytes: number) => void,
): Generator<HeadPairs> {
  const { id, head, range } = options;
  const snapshot = env.snapshot();
  try {
    const { record, sizes, generation } = requireContext(env, id, snapshot);
    const { rowBytes } = sizes;
    const run = pairsRun(record, head, rowBytes, generation);
    const { from = 0, to = run.rows } = range;
    assert(
      from >= 0 && from <= to && to <= run.rows,
      `expected some of the ${run.rows} rows of the head but got [${from}, ${to})`,
    );
    for (const piece of readPieces(env.tables.segments, run, { from, to }, snapshot)) {
      onRead(piece.payload.byteLength);
      const first = Math.max(from - piece.firstRank, 0);
      const end = Math.min(piece.count, to - piece.firstRank);
      const valuesStart = piece.count * rowBytes;
      yield {
        rows: end - first,
        keys: piece.payload.subarray(first * rowBytes, end * rowBytes),
        values: piece.payload.subarray(
          valuesStart + first * rowBytes,
          valuesStart + end * rowBytes,
        ),
      };
    }
  } finally {
    snapshot.done();
  }
}

/** See `ContextStore.readRanking`. */
export function readRanking(env: Environment, id: string, head: number): HeadRanking {
  return env.read((snapshot) => {
    const { record, generation } = requireContext(env, id, snapshot);
    const run = rankingRun(record, head, generation);
    const positions = new Uint32Array(run.rows);
    const scores = new Float32Array(run.rows);
    const rows = { from: 0, to: run.rows };
    for (const piece of readPieces(env.tables.rankings, run, rows, snapshot)) {
      const { count, firstRank, payload } = piece;
      const { buffer, byteOffset } = payload;
      positions.set(new Uint32Array(buffer, byteOffset, count), firstRank);
      scores.set(new Float32Array(buffer, byteOffset + 4 * count, count), firstRank);
    }
    return { positions, scores };
  });
}

/** See `ContextStore.tokenIds`. */
export function readTokenIds(env: Environment, id: string): TokenIds {
  return env.read((snapshot) => {
    const { record, generation } = requireContext(env, id, snapshot);
    const run = tokensRun(record, generation);
    const ids = new Int32Array(run.rows);
    const rows = { from: 0, to: run.rows };
    for (const piece of readPieces(env.tables.tokens, run, rows, snapshot)) {
      const { buffer, byteOffset } = piece.payload;
      ids.set(new Int32Array(buffer, byteOffset, piece.count), piece.firstRank);
    }
    return {
      prefixIds: ids.subarray(0, record.prefixTokens),
      documentIds: ids.subarray(record.prefixTokens),
    };
  });
}

function requireContext(env: Environment, id: string, snapshot: Snapshot): CatalogueEntry {
  const found = findEntry(env, id, snapshot);
  if (found !== undefined) return found.entry;
  throw new ReadonceError(
    'not_found',
    `Expected ${id} in the context store but it is not there; put its document again`,
    { details: { id } },
  );
}
