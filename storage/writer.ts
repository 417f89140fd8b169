import { setImmediate as nextTurn, setTimeout as delay } from 'node:timers/promises';
import { assert, defined } from '../src/core/assert.ts';
import type { StoredContext } from '../src/core/context.ts';
import { ReadonceError } from '../src/core/errors.ts';
import { tokenBytes } from '../src/core/identity.ts';
import { headCount } from '../src/core/kv-layout.ts';
import { findContext, putContext, removeFromCatalogue, type ContextSizes } from './catalogue.ts';
import type { ContextWrite } from './context-store.ts';
import type { Environment, Table } from './environment.ts';
import { idBytes } from './keys.ts';
import { cutPieces, runBytes, runPages, type Piece, type Run } from './pieces.ts';
import { finishRemoval, removePieces } from './remove.ts';
import { pairsRun, rankingRun, tokensRun } from './runs.ts';
import { isBeingWorkedOn, putMark, releaseToken, requireMark } from './unfinished.ts';

/** Bytes written in one transaction: bounds dirty memory, and how long others wait to write. */
const transactionBytes = 16 * 1024 * 1024;

/** How often a write looks whether another writer of its id is done. */
const busyPollMs = 50;

/** What `writeContext` works with. */
export interface WriteDeps {
  readonly env: Environment;
  readonly pieceBytes: number;
  readonly nowMs: () => number;
  /** Makes room for that many pages, or throws `storage_full`. */
  readonly makeRoom: (pages: number) => void;
  readonly warn: (fields: Readonly<Record<string, unknown>>, message: string) => void;
}

/** See `ContextStore.write`. Waits while another write or removal of the id goes on. */
export async function writeContext(
  deps: WriteDeps,
  write: ContextWrite,
  signal?: AbortSignal,
): Promise<StoredContext> {
  const { env } = deps;
  const { id } = write.record;
  const plan = planWrite(write, deps.pieceBytes);
  const claim = await claimId(deps, id, signal);
  if (typeof claim !== 'string') return claim;
  try {
    removePieces(env, id, claim);
    deps.makeRoom(plan.pages);
    for (const pieces of [segmentPieces, describingPieces]) {
      await putPieces(
        deps,
        { id, token: claim, pieces: pieces(env, write, plan, deps.pieceBytes) },
        signal,
      );
    }
    const record = { ...write.record, timings: write.timings() };
    return env.transact(() => {
      requireMark(env, id, claim);
      putContext(env, { record, sizes: plan.sizes }, write.usage);
      env.tables.unfinished.removeSync(idBytes(id));
      return defined(findContext(env, id), 'the context just written').stored;
    });
  } catch (error) {
    abandon(deps, id, claim);
    throw error;
  } finally {
    releaseToken(claim);
  }
}

interface WritePlan {
  readonly pairs: readonly Run[];
  readonly rankings: readonly Run[];
  readonly tokens: Run;
  readonly sizes: ContextSizes;
  /** Pages the context takes, at most. */
  readonly pages: number;
}

/** Pages for the records, their tables, and what LMDB copies while it writes. */
const sparePages = 64;

function planWrite(write: ContextWrite, pieceBytes: number): WritePlan {
  const { record } = write;
  const heads = Array.from({ length: headCount(record.layout) }, (_, head) => head);
  assert(record.pairCounts.length === heads.length, 'a record counts the pairs of each head');
  const rowBytes = write.encodedBytes(1);
  for (const rows of [0, ...record.pairCounts]) {
    assert(write.encodedBytes(rows) === rows * rowBytes, 'encoded rows all have the same size');
  }
  const pairs = heads.map((head) => pairsRun(record, head, rowBytes));
  const rankings = heads.map((head) => rankingRun(record, head));
  const tokens = tokensRun(record);
  const runs = [...pairs, ...rankings, tokens];
  return {
    pairs,
    rankings,
    tokens,
    sizes: {
      rowBytes,
      storedBytes: pairs.reduce((sum, run) => sum + run.rows * run.rowBytes, 0),
      pieceBytes: runs.reduce((sum, run) => sum + runBytes(run, pieceBytes), 0),
    },
    pages: runs.reduce((sum, run) => sum + runPages(run, pieceBytes), sparePages),
  };
}

/**
 * The stored context if there is one, else the token of our mark on the id. A context whose records
 * are broken counts as not there: it is written anew.
 */
async function claimId(
  { env, nowMs, warn }: WriteDeps,
  id: string,
  signal: AbortSignal | undefined,
): Promise<StoredContext | string> {
  for (;;) {
    signal?.throwIfAborted();
    const claim = env.transact(() => {
      try {
        const stored = findContext(env, id)?.stored;
        if (stored !== undefined) return stored;
      } catch (error) {
        if (!(error instanceof ReadonceError)) throw error;
        warn({ err: error }, 'a context with a corrupt record is written anew');
        removeFromCatalogue(env, id);
      }
      return isBeingWorkedOn(env, id, nowMs()) ? undefined : putMark(env, id, nowMs());
    });
    if (claim !== undefined) return claim;
    await delay(busyPollMs, undefined, signal === undefined ? {} : { signal });
  }
}

interface TablePiece extends Piece {
  readonly table: Table;
}

function* segmentPieces(
  { tables }: Environment,
  write: ContextWrite,
  plan: WritePlan,
  pieceBytes: number,
): Generator<TablePiece> {
  for (const [head, run] of plan.pairs.entries()) {
    const { rows, keys, values } = write.pairs(head);
    assert(rows === run.rows, `expected ${run.rows} rows of head ${head} but got ${rows}`);
    assert(keys.byteLength === values.byteLength, 'keys and values have the same size');
    for (const piece of cutPieces(run, [keys, values], pieceBytes)) {
      yield { table: tables.segments, ...piece };
    }
  }
}

function* describingPieces(
  { tables }: Environment,
  write: ContextWrite,
  plan: WritePlan,
  pieceBytes: number,
): Generator<TablePiece> {
  const { prefixIds, documentIds } = write;
  assert(prefixIds.length === write.record.prefixTokens, 'the record counts the prefix');
  const ids = Int32Array.from([...prefixIds, ...documentIds]);
  for (const piece of cutPieces(plan.tokens, [tokenBytes(ids)], pieceBytes)) {
    yield { table: tables.tokens, ...piece };
  }
  for (const [head, run] of plan.rankings.entries()) {
    const { positions, scores } = write.ranking(head);
    assert(positions.length === scores.length, 'every position has a score');
    for (const piece of cutPieces(run, [bytesOf(positions), bytesOf(scores)], pieceBytes)) {
      yield { table: tables.rankings, ...piece };
    }
  }
}

function bytesOf(array: Uint32Array | Float32Array): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

interface PieceBatch {
  readonly id: string;
  readonly token: string;
  readonly pieces: Iterable<TablePiece>;
}

/** Stores pieces durably, in transactions of bounded size; other work gets a turn in between. */
async function putPieces(
  { env }: WriteDeps,
  { id, token, pieces }: PieceBatch,
  signal: AbortSignal | undefined,
): Promise<void> {
  let waiting: TablePiece[] = [];
  let waitingBytes = 0;
  const flush = async (): Promise<void> => {
    env.transact(() => {
      requireMark(env, id, token);
      for (const { table, key, value } of waiting) table.putSync(key, value);
    });
    waiting = [];
    waitingBytes = 0;
    await nextTurn();
  };
  for (const piece of pieces) {
    signal?.throwIfAborted();
    waiting.push(piece);
    waitingBytes += piece.value.byteLength;
    if (waitingBytes >= transactionBytes) await flush();
  }
  await flush();
  signal?.throwIfAborted();
}

/** Removes what a failed write left. If even that fails, the mark stays and the sweep does it. */
function abandon({ env, warn }: WriteDeps, id: string, token: string): void {
  try {
    finishRemoval(env, id, token);
  } catch (error) {
    warn({ err: error, contextId: id }, 'what a failed write left is kept until the next sweep');
  }
}
