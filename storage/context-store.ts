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

/**
 * The context store. Everything read is verified; what fails a check throws `corrupt_record` and is
 * never decoded from. A context is visible only when it was written whole. Several processes may
 * have the same directory open.
 */
export interface ContextStore {
  /** The context, or undefined if it is not there (or not whole). Cheap: no segment is read. */
  get(id: string): StoredContext | undefined;
  /** Newest first. */
  list(options: ListOptions): ListPage;
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
   * @throws ReadonceError `storage_full`; `conflict` if another process took this one for dead
   */
  write(write: ContextWrite, signal?: AbortSignal): Promise<StoredContext>;
  /**
   * The first `rows` pairs of a head (default all), piece by piece in rank order: only the pieces
   * that hold them are touched. `keys` and `values` of a piece are valid until the iterator
   * advances; `keys` begin at an address divisible by 8, `values` behind the piece's keys. All
   * pieces are of one snapshot, which holds deleted bytes back from reuse: do not keep an iterator
   * waiting.
   * @throws ReadonceError `not_found`, `corrupt_record`
   */
  readPairs(id: string, head: number, rows?: number): Iterable<HeadPairs>;
  /** @throws ReadonceError `not_found`, `corrupt_record` */
  readRanking(id: string, head: number): HeadRanking;
  /** Changes what is given of the usage. Undefined if the context is not there. */
  update(id: string, change: Partial<ContextUsage>): Promise<StoredContext | undefined>;
  /** Removes a context; false if it was not there. */
  delete(id: string): Promise<boolean>;
  /**
   * Removes what interrupted writes and removals of dead processes left behind, and contexts that
   * expired more than a day ago; keeps the quota. Run at start-up.
   * @returns how many contexts were unfinished
   */
  sweep(): Promise<number>;
  close(): Promise<void>;
}
