import type { Clock } from '../core/clock.ts';
import type { Closeable } from '../core/closeable.ts';
import type { ContextRecord } from '../core/context.ts';
import type { ContextView, Runtime } from '../runtime/runtime.ts';
import type { ContextStore } from '../../storage/context-store.ts';

/** A context in memory, for one query. */
export interface LoadedContext {
  /** The rows of the keepRatio that was asked for. */
  readonly view: ContextView;
  /**
   * `host`, `device`: all these rows were in that memory; `disk`: some were read; `none`: nothing
   * is stored.
   */
  readonly source: 'device' | 'host' | 'disk' | 'none';
}

/** Memory set aside for a context that is not stored, until it is released. */
export interface Loan {
  readonly bytes: number;
}

/** What a query needs of its context. */
export interface LoadRequest {
  readonly record: ContextRecord;
  /** At most the record's. */
  readonly keepRatio: number;
  /** Rows that the query and its answer need behind the context. */
  readonly tailTokens: number;
  /** Bytes that the asker itself has parked, and goes on to hold; default 0. */
  readonly parkedBytes?: number;
}

/**
 * A query on its way to its context, which is loaded piece by piece. Several on one context move
 * the same loading on; when nobody is left who waits for it, it ends.
 */
export interface Claim extends Closeable {
  /** Whether rows are being loaded that another query began to load. */
  readonly isBehindOther: boolean;
  /**
   * One bounded piece of work of the device. Takes memory first, all of it. After an error it may
   * be tried again, from the beginning on.
   * @returns the context, which is the caller's to release, once it is there
   * @throws ReadonceError `not_found`, `conflict` (deleted or replaced meanwhile),
   * `corrupt_record`, `out_of_memory`, `overloaded`
   */
  advance(): LoadedContext | undefined;
  /** Settles when there is something to do for `advance`, at once before the first one. */
  ready(): Promise<void>;
  /** Gives back what it holds, unless it has got its context; idempotent. */
  close(): void;
}

/** Where contexts are read from and held, and how much they may take. */
export interface LoadedContextsOptions {
  readonly runtime: Runtime;
  readonly store: ContextStore;
  /** Bytes of loaded contexts and of tails, over which idle contexts are shortened or dropped. */
  readonly poolBytes: number;
  /** For tests; default the machine's. */
  readonly clock?: Clock;
  /** For tests, stored bytes that are read in one piece of work; default `loadPieceBytes`. */
  readonly pieceBytes?: number;
}
