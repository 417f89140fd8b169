import { assert } from '../src/core/assert.ts';
import { ReadonceError } from '../src/core/errors.ts';
import { findContext, type FoundContext } from './catalogue.ts';
import type { HeadPairs, HeadRanking, TokenIds } from './context-store.ts';
import type { Environment, Snapshot } from './environment.ts';
import { readPieces } from './pieces.ts';
import { pairsRun, rankingRun, tokensRun } from './runs.ts';

/** See `ContextStore.readPairs`. `onRead` hears of the bytes of each piece. */
export function* readPairs(
  env: Environment,
  options: { readonly id: string; readonly head: number; readonly rows: number | undefined },
  onRead: (bytes: number) => void,
): Generator<HeadPairs> {
  const snapshot = env.snapshot();
  try {
    const { record, sizes } = requireContext(env, options.id, snapshot);
    const { rowBytes } = sizes;
    const run = pairsRun(record, options.head, rowBytes);
    const rows = options.rows ?? run.rows;
    assert(rows <= run.rows, `expected at most the ${run.rows} rows of the head but got ${rows}`);
    for (const piece of readPieces(env.tables.segments, run, rows, snapshot)) {
      onRead(piece.payload.byteLength);
      const wanted = Math.min(piece.count, rows - piece.firstRank);
      const valuesStart = piece.count * rowBytes;
      yield {
        rows: wanted,
        keys: piece.payload.subarray(0, wanted * rowBytes),
        values: piece.payload.subarray(valuesStart, valuesStart + wanted * rowBytes),
      };
    }
  } finally {
    snapshot.done();
  }
}

/** See `ContextStore.readRanking`. */
export function readRanking(env: Environment, id: string, head: number): HeadRanking {
  return env.read((snapshot) => {
    const run = rankingRun(requireContext(env, id, snapshot).record, head);
    const positions = new Uint32Array(run.rows);
    const scores = new Float32Array(run.rows);
    for (const piece of readPieces(env.tables.rankings, run, run.rows, snapshot)) {
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
    const { record } = requireContext(env, id, snapshot);
    const run = tokensRun(record);
    const ids = new Int32Array(run.rows);
    for (const piece of readPieces(env.tables.tokens, run, run.rows, snapshot)) {
      const { buffer, byteOffset } = piece.payload;
      ids.set(new Int32Array(buffer, byteOffset, piece.count), piece.firstRank);
    }
    return {
      prefixIds: ids.subarray(0, record.prefixTokens),
      documentIds: ids.subarray(record.prefixTokens),
    };
  });
}

function requireContext(env: Environment, id: string, snapshot: Snapshot): FoundContext {
  const found = findContext(env, id, snapshot);
  if (found !== undefined) return found;
  throw new ReadonceError(
    'not_found',
    `Expected ${id} in the context store but it is not there; put its document again`,
    { details: { id } },
  );
}
