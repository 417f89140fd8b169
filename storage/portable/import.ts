import { defined } from '../../src/core/assert.ts';
import type { ContextRecord, ContextUsage, StoredContext } from '../../src/core/context.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import type { KvLayout } from '../../src/core/kv-layout.ts';
import type {
  ContextStore,
  ContextWrite,
  HeadPairs,
  HeadRanking,
  TokenIds,
} from '../context-store.ts';
import { frameHeaderBytes } from '../frame.ts';
import type { Run } from '../pieces.ts';
import { pairsRun, rankingRun, tokensRun } from '../runs.ts';
import { ByteSource, decodePart, intactFrame, readRun, rowsOfPart } from './byte-source.ts';
import { damaged, decodePreamble, portableLimits, preambleBytes } from './format.ts';
import { decodeManifest, excessOf, type Manifest } from './manifest.ts';
import { nobody, ownedBy, type Owner } from './owner.ts';
import { RankingCheck } from './ranking-check.ts';
import { Spool } from './spool.ts';

/** Where a file is imported to, and what it has to fit. */
export interface ImportTarget {
  readonly store: ContextStore;
  /** Of the imported context, whoever exported it: for another tenant it gets another id. */
  readonly owner: Owner;
  /** The model that will answer from it. */
  readonly model: { readonly fingerprint: string; readonly layout: KvLayout };
  /**
   * Bytes that one key of such a context takes, by its precision.
   * @throws ReadonceError for a compression that is not built, or counts it cannot have given
   */
  rowBytes(record: ContextRecord): number;
  /** What the context's use begins with, but for its labels. */
  readonly usage: Omit<ContextUsage, 'labels'>;
}

/** An imported context; `reused`: it was stored already. */
export interface ImportedContext {
  readonly stored: StoredContext;
  readonly reused: boolean;
}

/**
 * Stores the context of a file (PORTABLE.md). Nothing is visible before the whole file was
 * verified: it is written to a nameless file in the store's folder as it comes, at most as large
 * as the stream, and stored from there. Holds at most `portableLimits.headBytes`, one transaction
 * of the store, and a few MiB. Storing blocks the thread as any write does.
 * @throws ReadonceError `invalid_argument` for a file that is damaged, contradicts itself or is
 *   too large in some part, `identity_mismatch` for one of another model, `storage_full`; what
 *   `target.rowBytes` and the stream throw; the signal's reason
 */
export async function importContext(
  stream: AsyncIterable<Uint8Array>,
  target: ImportTarget,
  signal?: AbortSignal,
): Promise<ImportedContext> {
  const source = new ByteSource(stream);
  try {
    const id = decodePreamble(await source.read(preambleBytes));
    const frame = await source.readFrame(portableLimits.manifestBytes);
    const { record, labels } = intactFrame(() => decodeManifest(frame, id));
    const rowBytes = checkTarget(record, target);
    const tokens = await readTokens(source, record);
    checkIdentity(record, tokens);
    const file = { record, labels, rowBytes, tokens };
    const spool = await Spool.create(target.store.folder);
    try {
      const starts = await spoolRuns(source, file, spool, signal);
      await source.readEnd();
      return await storeContext(target, { ...file, spool, starts }, signal);
    } finally {
      await spool.close();
    }
  } finally {
    await source.close();
  }
}

/** @returns bytes of a key (or value) */
function checkTarget(record: ContextRecord, target: ImportTarget): number {
  const { fingerprint, layout } = target.model;
  if (record.model.fingerprint !== fingerprint) {
    throw new ReadonceError(
      'identity_mismatch',
      `Expected a context of the model ${fingerprint} but got one of ` +
        `${JSON.stringify(record.model.fingerprint)}; import it where that model runs`,
      { details: { expected: fingerprint, found: record.model.fingerprint } },
    );
  }
  const sameLayout =
    record.layout.layers === layout.layers &&
    record.layout.kvHeads === layout.kvHeads &&
    record.layout.group === layout.group &&
    record.layout.headDim === layout.headDim;
  if (!sameLayout) throw damaged("a layout other than its model's");
  const rowBytes = target.rowBytes(record);
  const excess = excessOf(record, rowBytes);
  if (excess !== undefined) throw damaged(excess);
  return rowBytes;
}

async function readTokens(source: ByteSource, record: ContextRecord): Promise<TokenIds> {
  const run = tokensRun(record);
  const ids = new Int32Array(run.rows);
  const bytes = new Uint8Array(ids.buffer);
  for await (const { part } of readRun(source, run)) {
    bytes.set(part.payload, part.firstRank * run.rowBytes);
  }
  return {
    prefixIds: ids.subarray(0, record.prefixTokens),
    documentIds: ids.subarray(record.prefixTokens),
  };
}

/** The id is a hash of what the context was made from: nobody can give a file another's id. */
function checkIdentity(record: ContextRecord, tokens: TokenIds): void {
  const expected = ownedBy(record, tokens, nobody);
  if (record.tenant !== expected.tenant) throw damaged('a context that has an owner');
  if (record.id !== expected.id) throw damaged('an id other than its content has');
  if (record.family !== expected.family) throw damaged('a family other than its content has');
}

/** What the beginning of a file says: how the rest must be. */
interface FileHead extends Manifest {
  readonly rowBytes: number;
  readonly tokens: TokenIds;
}

/** Where in the spool each head's frames begin. */
interface RunStarts {
  readonly rankings: readonly number[];
  readonly pairs: readonly number[];
}

/** A file that was verified to its end; its runs are in the spool. */
interface VerifiedFile extends FileHead {
  readonly spool: Spool;
  readonly starts: RunStarts;
}

async function spoolRuns(
  source: ByteSource,
  { record, rowBytes }: FileHead,
  spool: Spool,
  signal: AbortSignal | undefined,
): Promise<RunStarts> {
  const rankings: number[] = [];
  const pairs: number[] = [];
  for (const head of record.pairCounts.keys()) {
    rankings.push(spool.sizeBytes);
    const check = new RankingCheck(record.document.tokens);
    for await (const { frame, part } of readRun(source, rankingRun(record, head))) {
      signal?.throwIfAborted();
      check.add(part);
      await spool.append(frame);
    }
  }
  for (const head of record.pairCounts.keys()) {
    pairs.push(spool.sizeBytes);
    for await (const { frame } of readRun(source, pairsRun(record, head, rowBytes))) {
      signal?.throwIfAborted();
      await spool.append(frame);
    }
  }
  return { rankings, pairs };
}

async function storeContext(
  { store, owner, usage }: ImportTarget,
  file: VerifiedFile,
  signal: AbortSignal | undefined,
): Promise<ImportedContext> {
  const { labels, rowBytes, tokens } = file;
  const record = ownedBy(file.record, tokens, owner);
  const found = intactContext(store, record.id);
  if (found !== undefined) return { stored: found, reused: true };
  const write: ContextWrite = {
    record,
    usage: { ...usage, labels },
    ...tokens,
    timings: () => record.timings,
    encodedBytes: (rows) => rows * rowBytes,
    pairs: (head) => readPairs(file, head),
    ranking: (head) => readRanking(file, head),
  };
  return { stored: await store.write(write, signal), reused: false };
}

/** One whose records are broken counts as not there: the store writes it anew. */
function intactContext(store: ContextStore, id: string): StoredContext | undefined {
  try {
    return store.get(id);
  } catch (error) {
    if (error instanceof ReadonceError && error.code === 'corrupt_record') return undefined;
    throw error;
  }
}

function readPairs({ record, rowBytes, spool, starts }: VerifiedFile, head: number): HeadPairs {
  const run = pairsRun(record, head, rowBytes);
  const start = defined(starts.pairs[head], `the pairs of head ${head}`);
  const [keys, values] = readColumns(spool, start, run);
  return { rows: run.rows, keys, values };
}

function readRanking({ record, spool, starts }: VerifiedFile, head: number): HeadRanking {
  const start = defined(starts.rankings[head], `the ranking of head ${head}`);
  const [positions, scores] = readColumns(spool, start, rankingRun(record, head));
  return {
    positions: new Uint32Array(positions.buffer),
    scores: new Float32Array(scores.buffer),
  };
}

/** The two columns of a run, each whole. Every frame is verified again: disks err too. */
function readColumns(
  spool: Spool,
  start: number,
  run: Run,
): readonly [Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>] {
  const columnBytes = run.rowBytes / 2;
  const first = new Uint8Array(run.rows * columnBytes);
  const second = new Uint8Array(run.rows * columnBytes);
  let position = start;
  for (let firstRank = 0; firstRank < run.rows;) {
    const part = { ...run, firstRank };
    const frame = spool.read(position, frameHeaderBytes + rowsOfPart(part) * run.rowBytes);
    const { count, payload } = decodePart(frame, part);
    first.set(payload.subarray(0, count * columnBytes), firstRank * columnBytes);
    second.set(payload.subarray(count * columnBytes), firstRank * columnBytes);
    position += frame.byteLength;
    firstRank += count;
  }
  return [first, second];
}
