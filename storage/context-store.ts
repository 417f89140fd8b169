import type { Reservation } from './reservation.ts';
import type { Closeable } from '../src/core/closeable.ts';
import type {
  ContextRecord,
  ContextUsage,
  IngestTimings,
  StoredContext,
} from '../src/core/context.ts';

/** Encoded pairs of one head, best first, in the context's precision. */
export interface HeadPairs {
  readonly rows: number;
  /** `rows` encoded keys. */
  readonly keys: Uint8Array;
  /** `rows` encoded values. */
  readonly values: Uint8Array;
}

/** Which pairs a head kept: protected rows (the prefix) are not listed. */
export interface HeadRanking {
  /** Document token indices, best first. */
  readonly positions: Uint32Array;
  /** Their scores. */
  readonly scores: Float32Array;
}

/** A context to write. */
export interface ContextWrite {
  readonly record: Omit<ContextRecord, 'timings'>;
  /** Called once everything but the catalogue record is durable: persisting is part of it. */
  timings(): IngestTimings;
  readonly usage: ContextUsage;
  readonly prefixIds: Int32Array;
  readonly documentIds: Int32Array;
  /**
   * Encoded bytes of `rows` keys (or values) of a head. Rows are encoded one by one, all to the
   * same size: pieces are cut between them.
   */
  encodedBytes(rows: number): number;
  /** Called once per head, in order; the result may be reused by the next call. */
  pairs(head: number): HeadPairs;
  ranking(head: number): HeadRanking;
}

/** Which contexts a list shows. */
export interface ListOptions {
  readonly tenant: string;
  /** 1 … 100 */
  readonly limit: number;
  /** As returned before; opaque. */
  readonly cursor: string | undefined;
  /** Only contexts that carry this label. */
  readonly label: { readonly key: string; readonly value: string } | undefined;
}

/** A part of a list. */
export interface ListPage {
  readonly contexts: readonly StoredContext[];
  readonly nextCursor: string | null;
}

/** What a context was made from, as the model's tokens. */
export interface TokenIds {
  readonly prefixIds: Int32Array;
  readonly documentIds: Int32Array;
}

/** Rows [from, to) of a head, by rank; default all. */
export interface RowRange {
  readonly from?: number | undefined;
  readonly to?: number | undefined;
}

/** Rows [from, to) of one of a context's heads, `[layers · kvHeads]`, by rank. */
export interface HeadRange {
  readonly head: number;
  readonly from: number;
  readonly to: number;
}

/** Some rows of a head. */
export interface HeadRows extends HeadPairs {
  readonly head: number;
  /** Rank of the first of them. */
  readonly firstRow: number;
}

/** Why a context is not to be answered from. */
export interface Fault {
  /** What failed and where; no stored content. */
  readonly reason: string;
  /**
   * Which write of the context it was found in. Given, only that one is moved aside: not what
   * someone else rebuilt in the meantime.
   */
  readonly generation?: number | undefined;
}

/** A context that was moved aside: kept for inspection, never read from. */
export interface QuarantinedContext {
  readonly id: string;
  readonly reason: string;
  readonly quarantinedAtMs: number;
  /** Keys and values kept for it, bytes. */
  readonly bytes: number;
}

/** How a store is verified. */
export interface VerifyOptions {
  /** Moves the contexts that fail aside; default false. */
  readonly quarantine?: boolean;
}

/** What verifying found of one context. */
export interface VerifiedContext {
  readonly id: string;
  /** The first check that failed; undefined: all of it is sound. */
  readonly fault: Fault | undefined;
}

/** What a store holds and takes; sizes are bytes. */
export interface StoreStats {
  /** Contexts that can be found. */
  readonly contexts: number;
  /** Keys and values of these contexts. */
  readonly contextBytes: number;
  /** Contexts whose own records fail a check: `verify` names them. */
  readonly damaged: number;
  readonly quarantined: { readonly contexts: number; readonly bytes: number };
  /** Writes and removals that go on, or that a dead process left. */
  readonly unfinished: number;
  /** Pages in use: what the quota is compared with. */
  readonly usedBytes: number;
  /** Pages of the file that will be used again. */
  readonly freeBytes: number;
  readonly fileBytes: number;
  /** `fileBytes / usedBytes`: what compaction would win. */
  readonly fragmentation: number;
}

/** What is collected beside the leftovers of dead processes and long-expired contexts. */
export interface GcOptions {
  /** Quarantined contexts go after this long, milliseconds; default 30 days, 0: all. */
  readonly quarantineMs?: number;
}

/** How many contexts were collected, by what they were. */
export interface Collected {
  readonly unfinished: number;
  readonly expired: number;
  readonly quarantined: number;
  /** Pieces that no record and no mark spoke for. */
  readonly stray: number;
}

/** Rows that are read some at a time: the caller may do other things in between. */
export interface RowReading extends Closeable {
  /**
   * Hands over rows, as long as there are some without waiting for other threads. Heads come in any
   * order, the rows of one range in rank order.
   * @param onRows uses rows up before it returns, and reads nothing else of the store; false if it
   * wants no more of them now
   * @returns whether all rows have been handed over
   * @throws ReadonceError `not_found`, `corrupt_record`; `internal` if a thread has died or is
   * stuck; what `onRows` throws. It is to be closed then
   */
  take(onRows: (rows: HeadRows) => boolean): boolean;
  /** Settles when `take` has something to hand over, or an error. */
  ready(): Promise<void>;
  /** Ends the reading, wherever it is; idempotent. */
  close(): void;
}

/**
 * The context store. Everything read is verified; what fails a check throws `corrupt_record` and is
 * never decoded from. A context is visible only when it was written whole. Several processes may
 * have the same directory open.
 */
export interface ContextStore {
  /** Where its files are; what is too large for memory on its way in waits there too. */
  readonly folder: string;
  /** The context, or undefined if it is not there (or not whole). Cheap: no segment is read. */
  get(id: string): StoredContext | undefined;
  /**
   * The contexts that differ from each other in keepRatio and precision only (`familyId`), in no
   * particular order. Found by an index; corrupt ones are left out.
   */
  family(family: string): readonly StoredContext[];
  /** Newest first. */
  list(options: ListOptions): ListPage;
  /**
   * Whether a context is in a tenant's list, by the index alone: also if its records are corrupt
   * and no list shows it. Reads the keys of all of the tenant's contexts.
   */
  isListed(context: { readonly tenant: string; readonly id: string }): boolean;
  /** 32 random bytes, made at the first call; from then on the same in every process. */
  secret(): Uint8Array;
  /**
   * The token ids a context was made from: a hit compares them with what was asked for.
   * @throws ReadonceError `not_found`, `corrupt_record`
   */
  tokenIds(id: string): TokenIds;
  /**
   * Writes segments, then token ids and rankings, then the catalogue record, each durable before
   * the next. Writing an id that is there already replaces nothing and returns what is stored; one
   * that another caller or process is writing is waited for.
   * @param signal stops between segments; what was written is removed.
   * @throws ReadonceError `storage_full`; `conflict` if another process took this one for dead;
   * `engine_unavailable` if the store closes meanwhile; `internal` if the thread that writes ends
   */
  write(write: ContextWrite, signal?: AbortSignal): Promise<StoredContext>;
  /**
   * Lets one process at a time make a context: the stored one if there is one by now, else a
   * reservation, for which others wait. One of a process that died counts no more.
   * @throws the signal's reason
   */
  reserve(id: string, signal?: AbortSignal): Promise<StoredContext | Reservation>;
  /**
   * Fails early for what a write would fail for later: that many bytes more would not fit the quota
   * even without every context that may be removed. Removes none.
   * @throws ReadonceError `storage_full`
   */
  requireRoom(bytes: number): void;
  /**
   * Rows of a head, piece by piece in rank order: only the pieces that hold them are touched.
   * `keys` and `values` of a piece are valid until the iterator advances or the process reads the
   * store again, whichever comes first: decode or copy them before anything else. Both begin at an
   * address divisible by 8 if a row's bytes are. All pieces are of one snapshot, which holds
   * deleted bytes back from reuse: do not keep an iterator waiting.
   * @throws ReadonceError `not_found`, `corrupt_record`
   */
  readPairs(id: string, head: number, range?: RowRange): Iterable<HeadPairs>;
  /**
   * Begins to read rows of several heads, with `StoreOptions.readerThreads` if they are many. Each
   * range may be of a snapshot of its own, or of several: who reads rows that belong together looks
   * whether the context is still the same when it has them all.
   */
  readRows(id: string, ranges: readonly HeadRange[]): RowReading;
  /** @throws ReadonceError `not_found`, `corrupt_record` */
  readRanking(id: string, head: number): HeadRanking;
  /** Changes what is given of the usage. Undefined if the context is not there. */
  update(id: string, change: Partial<ContextUsage>): Promise<StoredContext | undefined>;
  /**
   * Notes that a context was used: at once for this process, on disk within seconds and at close. A
   * crash loses no more than that. Free of waiting, for the path of a query.
   */
  touch(id: string, usedAtMs: number): void;
  /** Removes a context; false if it was not there. */
  delete(id: string): Promise<boolean>;
  /**
   * Removes what interrupted writes, removals and compactions of dead processes left behind, and
   * contexts that expired more than a day ago; keeps the quota. Run at start-up.
   * @returns how many contexts were unfinished
   */
  sweep(): Promise<number>;
  /**
   * Moves a context aside, at once and whatever state its records are in: it is not found any more,
   * a write stores it anew, and its bytes are kept for inspection (and counted) until they are
   * purged, replaced by the next quarantine of the id, or needed for a write.
   * @returns false if the context (or the generation that `fault` names) was not there, or if the
   * disk is too full to say so there
   */
  quarantine(id: string, fault: Fault): boolean;
  /** The longest kept first. */
  listQuarantined(): readonly QuarantinedContext[];
  /** Removes quarantined contexts, `olderThanMs` (default all); returns how many. */
  purgeQuarantine(olderThanMs?: number): Promise<number>;
  /** Reads everything of every context. Other work goes on between heads. */
  verify(options?: VerifyOptions): AsyncGenerator<VerifiedContext>;
  stats(): StoreStats;
  /** `sweep`, and what else nobody needs. */
  gc(options?: GcOptions): Promise<Collected>;
  /**
   * Writes a compacted copy of the store, as of now, to a folder that is made and must not hold a
   * store. Others may go on using this one.
   * @throws ReadonceError `conflict` if the folder holds a store, `storage_full`
   */
  compactTo(folder: string): Promise<void>;
  /** Stops the writes that go on, waits until what they left is removed, and closes; idempotent. */
  close(): Promise<void>;
}
