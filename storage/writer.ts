import { setImmediate as nextTurn, setTimeout as delay } from 'node:timers/promises';
import { assert, defined } from '../src/core/assert.ts';
import type { Clock } from '../src/core/clock.ts';
import { concatenate } from '../src/core/concatenate.ts';
import type { StoredContext } from '../src/core/context.ts';
import { tokenBytes } from '../src/core/identity.ts';
import { headCount } from '../src/core/kv-layout.ts';
import { findContext, intact, putContext, type ContextSizes } from './catalogue.ts';
import { requireMark, type Claim } from './claim.ts';
import type { ContextWrite, Fault } from './context-store.ts';
import type { Environment } from './environment.ts';
import { faultOf } from './fault.ts';
import { nextGeneration } from './generations.ts';
import { pieceBatch, type TablePiece } from './piece-batch.ts';
import { cutPieces, runBytes, runPages, type Run } from './pieces.ts';
import type { PieceBatch, PutResult } from './put-batch.ts';
import { quarantineContext } from './quarantine.ts';
import { finishRemoval } from './remove.ts';
import { pairsRun, rankingRun, tokensRun } from './runs.ts';
import { reservedGeneration } from './reservation.ts';
import { Slab } from './slab.ts';
import {
  isBeingWorkedOn,
  markedGenerations,
  putMark,
  releaseClaim,
  removeMark,
} from './unfinished.ts';

/**
 * Bytes written in one transaction: bounds dirty memory, how long others wait to write, and how
 * long this thread puts a batch together before other work has a turn. Fewer of them are better
 * where this thread waits for the disk, too: in all it waits for less.
 */
const transactionBytes = { byThread: 8 * 1024 * 1024, byCaller: 16 * 1024 * 1024 } as const;

/** How often a write looks whether another writer of its id is done. */
const busyPollMs = 50;

/** What `writeContext` works with. */
export interface WriteDeps {
  readonly env: Environment;
  readonly pieceBytes: number;
  readonly clock: Clock;
  /** Whether a write of so many bytes is stored by another thread, or soon will be. */
  readonly usesThread: (writeBytes: number) => boolean;
  /** Stores a batch of a write of so many bytes in all, here or in another thread. */
  readonly put: (batch: PieceBatch, writeBytes: number) => Promise<PutResult>;
  /** Makes room for that many pages, or throws `storage_full`. */
  readonly makeRoom: (pages: number) => void;
  /** Whether there is room for that many pages, as the present write transaction sees it. */
  readonly hasRoom: (pages: number) => boolean;
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
  if ('record' in claim) return claim;
  const { generation } = claim;
  try {
    deps.makeRoom(plan.pages);
    await putPieces(deps, { claim, write, plan }, signal);
    const record = { ...write.record, timings: write.timings() };
    return transactInRoom(deps, { claim, pages: recordPages }, () => {
      putContext(env, { record, generation, sizes: plan.sizes }, write.usage);
      removeMark(env, claim);
      return defined(findContext(env, id), 'the context just written').stored;
    });
  } catch (error) {
    abandon(deps, claim);
    throw error;
  } finally {
    releaseClaim(claim);
  }
}

interface WritePlan {
  readonly pieceBytes: number;
  readonly pairs: readonly Run[];
  readonly rankings: readonly Run[];
  readonly tokens: Run;
  readonly sizes: ContextSizes;
  /** Pages the context takes, at most. */
  readonly pages: number;
}

/** Pages for the records, their tables, and what LMDB copies while it writes. */
const sparePages = 64;

/** As many of them as the last transaction may need. */
const recordPages = sparePages / 2;

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
    pieceBytes,
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
 * The stored context if there is one, else our claim on a generation that nothing has. A context
 * whose records are broken is moved aside and written anew.
 */
async function claimId(
  { env, clock, warn }: WriteDeps,
  id: string,
  signal: AbortSignal | undefined,
): Promise<StoredContext | Claim> {
  for (;;) {
    signal?.throwIfAborted();
    const faults: Fault[] = [];
    const claim = env.transact(() => {
      const nowMs = clock.nowMs();
      const stored = intact(
        () => findContext(env, id)?.stored,
        (error) => {
          warn({ err: error, contextId: id }, 'a context with a corrupt record is written anew');
          faults.push(faultOf(error));
        },
      );
      if (stored !== undefined || faults.length > 0) return stored;
      const busy = markedGenerations(env, { id }).some(
        (of) => of.generation !== reservedGeneration && isBeingWorkedOn(env, of, nowMs),
      );
      return busy ? undefined : putMark(env, { id, generation: nextGeneration(env, id) }, nowMs);
    }, 'ordered');
    if (claim !== undefined) return claim;
    const [fault] = faults;
    if (fault !== undefined) quarantineContext({ env, clock }, id, fault);
    else await delay(busyPollMs, undefined, signal === undefined ? {} : { signal });
  }
}

/** What a write has planned, the generation it is given, and where pieces are put together. */
type ClaimedPlan = WritePlan &
  Pick<Claim, 'generation'> & { readonly allocate: (bytes: number) => Buffer };

function* allPieces(write: ContextWrite, plan: ClaimedPlan): Generator<TablePiece> {
  yield* segmentPieces(write, plan);
  yield* describingPieces(write, plan);
}

function* segmentPieces(
  write: ContextWrite,
  { pairs: runs, generation, pieceBytes, allocate }: ClaimedPlan,
): Generator<TablePiece> {
  for (const [head, run] of runs.entries()) {
    const { rows, keys, values } = write.pairs(head);
    assert(rows === run.rows, `expected ${run.rows} rows of head ${head} but got ${rows}`);
    assert(keys.byteLength === values.byteLength, 'keys and values have the same size');
    for (const piece of cutPieces({ ...run, generation }, [keys, values], pieceBytes, allocate)) {
      yield { table: 'segments', ...piece };
    }
  }
}

function* describingPieces(
  write: ContextWrite,
  { tokens: tokensOf, rankings: runs, generation, pieceBytes, allocate }: ClaimedPlan,
): Generator<TablePiece> {
  const { prefixIds, documentIds } = write;
  assert(prefixIds.length === write.record.prefixTokens, 'the record counts the prefix');
  const ids = [tokenBytes(concatenate(prefixIds, documentIds))];
  for (const piece of cutPieces({ ...tokensOf, generation }, ids, pieceBytes, allocate)) {
    yield { table: 'tokens', ...piece };
  }
  for (const [head, run] of runs.entries()) {
    const { positions, scores } = write.ranking(head);
    assert(positions.length === scores.length, 'every position has a score');
    const columns = [bytesOf(positions), bytesOf(scores)];
    for (const piece of cutPieces({ ...run, generation }, columns, pieceBytes, allocate)) {
      yield { table: 'rankings', ...piece };
    }
  }
}

function bytesOf(array: Uint32Array | Float32Array): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/**
 * Runs `action` in a transaction of the write, and only with room for `pages` in it: what was made
 * before the first one may have been taken by others, who write at the same time.
 */
function transactInRoom<T>(
  deps: WriteDeps,
  { claim, pages }: { readonly claim: Claim; readonly pages: number },
  action: () => T,
): T {
  for (;;) {
    const done = deps.env.transact(() => {
      requireMark(deps.env, claim);
      return deps.hasRoom(pages) ? { result: action() } : undefined;
    });
    if (done !== undefined) return done.result;
    deps.makeRoom(pages);
  }
}

/**
 * Stores pieces in order, in batches: while one is stored the next is put together, and other work
 * gets a turn in between. Nothing is being stored any more when it returns or throws.
 */
async function putPieces(
  deps: WriteDeps,
  { claim, write, plan }: { readonly claim: Claim; write: ContextWrite; plan: WritePlan },
  signal: AbortSignal | undefined,
): Promise<void> {
  const { generation } = claim;
  const writeBytes = plan.sizes.pieceBytes;
  const batchBytes = transactionBytes[deps.usesThread(writeBytes) ? 'byThread' : 'byCaller'];
  const newMemory = (): ArrayBuffer => new ArrayBuffer(batchBytes + plan.pieceBytes);
  let slab = new Slab(newMemory());
  let pieces: TablePiece[] = [];
  /** Memory of batches that are stored: with the slab's there are never more than two. */
  const free: ArrayBuffer[] = [];
  let stored = Promise.resolve();
  const flush = async (): Promise<void> => {
    await stored;
    const batch = pieceBatch(claim, pieces, slab.memory);
    stored = storeBatch(deps, batch, writeBytes).then((memory) => void free.push(memory));
    // Awaited later, when the next batch is there.
    stored.catch(() => undefined);
    await nextTurn();
    slab = new Slab(free.pop() ?? newMemory());
    pieces = [];
  };
  try {
    const allocate = (bytes: number): Buffer => slab.allocate(bytes);
    for (const piece of allPieces(write, { ...plan, generation, allocate })) {
      signal?.throwIfAborted();
      pieces.push(piece);
      if (slab.usedBytes >= batchBytes) await flush();
    }
    await flush();
    await stored;
    signal?.throwIfAborted();
  } finally {
    await stored.catch(() => undefined);
  }
}

/** Stores a batch, and only with room for it, as `transactInRoom`; returns its memory. */
async function storeBatch(
  deps: WriteDeps,
  batch: PieceBatch,
  writeBytes: number,
): Promise<ArrayBuffer> {
  let next = batch;
  for (;;) {
    const { isStored, memory } = await deps.put(next, writeBytes);
    if (isStored) return memory;
    deps.makeRoom(batch.pages);
    next = { ...batch, memory };
  }
}

/** Removes what a failed write left. If even that fails, the mark stays and the sweep does it. */
function abandon({ env, warn }: WriteDeps, claim: Claim): void {
  try {
    finishRemoval(env, claim);
  } catch (error) {
    warn({ err: error, contextId: claim.id }, 'what a failed write left stays until the sweep');
  }
}
