import { systemClock, type Clock } from '../src/core/clock.ts';
import type { ContextUsage, StoredContext } from '../src/core/context.ts';
import { ReadonceError } from '../src/core/errors.ts';
import { findContext, putUsage } from './catalogue.ts';
import { copyCompacted, removeLeftCompaction } from './compact.ts';
import type {
  Collected,
  ContextStore,
  ContextWrite,
  Fault,
  GcOptions,
  HeadPairs,
  HeadRange,
  HeadRanking,
  ListOptions,
  ListPage,
  QuarantinedContext,
  RowRange,
  RowReading,
  StoreStats,
  TokenIds,
  VerifiedContext,
  VerifyOptions,
} from './context-store.ts';
import { DirectReading } from './direct-reading.ts';
import { openEnvironment, type Environment } from './environment.ts';
import { contextsOfFamily } from './family.ts';
import { isListed, listContexts } from './list.ts';
import { defaultPieceBytes } from './pieces.ts';
import { purgeQuarantine, quarantineContext } from './quarantine.ts';
import { readQuarantine } from './quarantine-records.ts';
import { makeRoom, requireRoom } from './quota.ts';
import { readPairs, readRanking, readTokenIds } from './reader.ts';
import { RecentUse } from './recent-use.ts';
import { hasRoom } from './room.ts';
import { removeContext } from './remove.ts';
import { RunningWrites } from './running-writes.ts';
import { storeSecret } from './secret.ts';
import { storeStats } from './stats.ts';
import { reserveId, type Reservation } from './reservation.ts';
import { sweepExpired, sweepIndex, sweepStray, sweepUnfinished } from './sweep.ts';
import { BatchWriter } from './threads/batch-writer.ts';
import { ReaderThreads } from './threads/reader-threads.ts';
import { verifyContexts } from './verify.ts';
import { writeContext, type WriteDeps } from './writer.ts';

/** Where the store tells what it did by itself; pino's loggers fit. */
export interface StoreLog {
  info(fields: Readonly<Record<string, unknown>>, message: string): void;
  warn(fields: Readonly<Record<string, unknown>>, message: string): void;
}

/** How a store is opened. */
export interface StoreOptions {
  /** Made if it is not there. Several processes may open it. */
  readonly folder: string;
  /** Quota in bytes of LMDB pages in use; default none. Contexts are removed to keep it. */
  readonly maxBytes?: number | undefined;
  /**
   * Largest value of a piece, header included; default 16 pages to the last byte: small enough to
   * read little too much of a prefix, large enough that checks cost more than look-ups. May change
   * from one opening to the next.
   */
  readonly pieceBytes?: number;
  readonly clock?: Clock;
  readonly log?: StoreLog;
  /** Hears of the bytes of pairs that are read, for metrics. */
  readonly onRead?: (bytes: number) => void;
  /** Threads that read large contexts together; default 0: the caller's reads them. */
  readonly readerThreads?: number;
  /**
   * Bytes from which on a write starts a thread, which from then on stores what all writes put
   * together; default 256 MiB: starting it takes a quarter of a second of a core, which less is
   * not worth.
   */
  readonly writerThreadFromBytes?: number;
}

/** Rows from which on it is worth it to wake threads: 4 to 16 MB. */
const manyRows = 2 ** 15;

const defaultWriterThreadFromBytes = 256 * 1024 * 1024;

const silentLog: StoreLog = { info: () => undefined, warn: () => undefined };

/** How long `gc` keeps quarantined contexts by default. */
const keepQuarantinedMs = 30 * 24 * 60 * 60 * 1000;

/**
 * Opens the context store in a folder. Call `sweep` before using it.
 * @throws ReadonceError `unsupported` when the folder has a store of another format version;
 * `conflict` while it is being compacted
 */
export async function openContextStore(options: StoreOptions): Promise<ContextStore> {
  return new LmdbStore(openEnvironment(options.folder), options);
}

class LmdbStore implements ContextStore {
  readonly folder: string;
  readonly #env: Environment;
  readonly #clock: Clock;
  readonly #log: StoreLog;
  readonly #pieceBytes: number;
  readonly #maxBytes: number | undefined;
  readonly #onRead: (bytes: number) => void;
  readonly #recent: RecentUse;
  readonly #threads: ReaderThreads;
  readonly #writer: BatchWriter;
  readonly #writes = new RunningWrites();

  constructor(env: Environment, options: StoreOptions) {
    this.folder = options.folder;
    this.#env = env;
    this.#clock = options.clock ?? systemClock;
    this.#log = options.log ?? silentLog;
    this.#pieceBytes = options.pieceBytes ?? defaultPieceBytes;
    this.#maxBytes = options.maxBytes;
    this.#onRead = options.onRead ?? (() => undefined);
    this.#recent = new RecentUse(env, this.#warn);
    this.#threads = new ReaderThreads({
      folder: options.folder,
      count: options.readerThreads ?? 0,
      onError: (error) => this.#log.warn({ err: error }, 'reads contexts with one thread only'),
    });
    this.#writer = new BatchWriter({
      env,
      maxBytes: options.maxBytes,
      fromBytes: options.writerThreadFromBytes ?? defaultWriterThreadFromBytes,
      onError: (error) => this.#log.warn({ err: error }, 'writes contexts without a thread'),
    });
  }

  get(id: string): StoredContext | undefined {
    const found = this.#env.read((snapshot) => findContext(this.#env, id, snapshot));
    return found && this.#recent.apply(found.stored);
  }

  family(family: string): readonly StoredContext[] {
    const found = contextsOfFamily(this.#env, family, this.#warn);
    return found.map((stored) => this.#recent.apply(stored));
  }

  list(options: ListOptions): ListPage {
    const page = listContexts(this.#env, options, this.#warn);
    return { ...page, contexts: page.contexts.map((stored) => this.#recent.apply(stored)) };
  }

  isListed(context: { readonly tenant: string; readonly id: string }): boolean {
    return isListed(this.#env, context);
  }

  secret(): Uint8Array {
    return storeSecret(this.#env);
  }

  tokenIds(id: string): TokenIds {
    return readTokenIds(this.#env, id);
  }

  write(write: ContextWrite, signal?: AbortSignal): Promise<StoredContext> {
    return this.#writes.run((stopped) => writeContext(this.#writeDeps, write, stopped), signal);
  }

  reserve(id: string, signal?: AbortSignal): Promise<StoredContext | Reservation> {
    return reserveId({ env: this.#env, clock: this.#clock }, id, signal);
  }

  requireRoom(bytes: number): void {
    requireRoom(this.#quotaDeps, bytes);
  }

  readPairs(id: string, head: number, range: RowRange = {}): Iterable<HeadPairs> {
    return readPairs(this.#env, { id, head, range }, this.#onRead);
  }

  readRows(id: string, ranges: readonly HeadRange[]): RowReading {
    const rows = ranges.reduce((sum, { from, to }) => sum + to - from, 0);
    const reading =
      // Threads read one context after another, each as quickly as its taker goes on.
      rows >= manyRows && this.#threads.isReady && this.#threads.isIdle
        ? this.#threads.read(id, ranges)
        : new DirectReading(this.#env, { id, ranges });
    return {
      take: (onRows) =>
        reading.take((taken) => {
          this.#onRead(taken.keys.byteLength + taken.values.byteLength);
          return onRows(taken);
        }),
      ready: () => reading.ready(),
      close: () => reading.close(),
    };
  }

  readRanking(id: string, head: number): HeadRanking {
    return readRanking(this.#env, id, head);
  }

  async update(id: string, change: Partial<ContextUsage>): Promise<StoredContext | undefined> {
    return this.#env.transact(() => {
      const found = findContext(this.#env, id);
      if (found === undefined) return undefined;
      const { usage } = this.#recent.apply(found.stored);
      putUsage(this.#env, found.stored, { ...usage, ...change });
      return findContext(this.#env, id)?.stored;
    });
  }

  touch(id: string, usedAtMs: number): void {
    this.#recent.note(id, usedAtMs);
  }

  async delete(id: string): Promise<boolean> {
    return removeContext(this.#env, this.#clock, id);
  }

  async sweep(): Promise<number> {
    return this.#ifThereIsRoom(() => this.#sweep().unfinished) ?? 0;
  }

  quarantine(id: string, fault: Fault): boolean {
    const moved = this.#ifThereIsRoom(() => quarantineContext(this.#quarantineDeps, id, fault));
    if (moved === true) this.#warn({ contextId: id, ...fault }, 'quarantined a context');
    return moved === true;
  }

  listQuarantined(): readonly QuarantinedContext[] {
    return readQuarantine(this.#env).map(({ id, reason, quarantinedAtMs, bytes }) => ({
      id,
      reason,
      quarantinedAtMs,
      bytes,
    }));
  }

  async purgeQuarantine(olderThanMs = 0): Promise<number> {
    return purgeQuarantine(this.#quarantineDeps, this.#clock.nowMs() - olderThanMs);
  }

  verify(options: VerifyOptions = {}): AsyncGenerator<VerifiedContext> {
    return verifyContexts(this.#quarantineDeps, options);
  }

  stats(): StoreStats {
    return storeStats(this.#env);
  }

  async gc({ quarantineMs = keepQuarantinedMs }: GcOptions = {}): Promise<Collected> {
    const quarantined = await this.purgeQuarantine(quarantineMs);
    const stray = sweepStray(this.#env, this.#clock);
    return { ...this.#sweep(), quarantined, stray };
  }

  async compactTo(folder: string): Promise<void> {
    await copyCompacted(this.#env, folder);
  }

  async close(): Promise<void> {
    await this.#writes.close();
    this.#recent.flush();
    await Promise.all([this.#threads.close(), this.#writer.close()]);
    await this.#env.close();
  }

  get #quarantineDeps() {
    return { env: this.#env, clock: this.#clock };
  }

  get #writeDeps(): WriteDeps {
    return {
      env: this.#env,
      clock: this.#clock,
      pieceBytes: this.#pieceBytes,
      usesThread: (writeBytes) => this.#writer.takes(writeBytes),
      put: (batch, writeBytes) => this.#writer.put(batch, writeBytes),
      makeRoom: (pages) => {
        sweepUnfinished(this.#env, this.#clock);
        sweepExpired(this.#env, this.#clock);
        this.#makeRoom(pages);
      },
      hasRoom: (pages) => hasRoom(this.#quotaDeps, pages),
      warn: this.#warn,
    };
  }

  get #quotaDeps() {
    const info: StoreLog['info'] = (fields, message) => this.#log.info(fields, message);
    return { env: this.#env, clock: this.#clock, maxBytes: this.#maxBytes, info };
  }

  readonly #warn: StoreLog['warn'] = (fields, message) => this.#log.warn(fields, message);

  /** A full disk, or pinned contexts above the quota, keep nobody from reading what is stored. */
  #ifThereIsRoom<T>(action: () => T): T | undefined {
    try {
      return action();
    } catch (error) {
      if (!(error instanceof ReadonceError) || error.code !== 'storage_full') throw error;
      this.#warn({ err: error }, 'no room to tidy the context store up');
      return undefined;
    }
  }

  #sweep(): Pick<Collected, 'unfinished' | 'expired'> {
    removeLeftCompaction(this.folder);
    const unfinished = sweepUnfinished(this.#env, this.#clock);
    const expired = sweepExpired(this.#env, this.#clock);
    sweepIndex(this.#env);
    this.#makeRoom(0);
    return { unfinished, expired };
  }

  #makeRoom(pages: number): void {
    this.#recent.flush();
    makeRoom(this.#quotaDeps, pages);
  }
}
