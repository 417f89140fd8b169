import type { StoredContext } from '../core/context.ts';
import type { ReadonceError } from '../core/errors.ts';
import { asReadonceError } from '../core/errors.ts';
import type { Ingested, IngestProgress } from '../engine/protocol.ts';
import type { PendingContext } from './context-view.ts';
import { laterUsage, usageChange, type UsageRequest } from './usage-change.ts';

/** What an ingestion tells those who follow it; the last event is `ready` or `failed`. */
export type IngestionEvent =
  | { readonly kind: 'progress'; readonly progress: IngestProgress }
  | { readonly kind: 'ready'; readonly stored: StoredContext }
  | { readonly kind: 'failed'; readonly error: ReadonceError };

/** How an ingestion does its work. */
export interface IngestionWork {
  /** Runs the engine; stops early when `signal` aborts. */
  ingest(onProgress: (progress: IngestProgress) => void, signal: AbortSignal): Promise<Ingested>;
  /** Applies changes of usage that came in after the engine was started. */
  update(change: UsageRequest): Promise<StoredContext | undefined>;
}

/**
 * One document being ingested, for however many requests wait for it. It belongs to none of them: a
 * client that goes away stops nothing.
 */
export class Ingestion {
  /** Resolves when the context is stored; rejects with a `ReadonceError`. */
  readonly result: Promise<Ingested>;
  readonly #abort = new AbortController();
  readonly #listeners = new Set<(event: IngestionEvent) => void>();
  #pending: PendingContext;
  #change: UsageRequest | undefined;
  #latest: IngestProgress | undefined;
  #cancelled: ReadonceError | undefined;
  #over = false;

  constructor(pending: PendingContext, work: IngestionWork) {
    this.#pending = pending;
    this.result = this.#run(work);
  }

  get pending(): PendingContext {
    return this.#pending;
  }

  /** Why it was cancelled, undefined if it was not. */
  get cancelled(): ReadonceError | undefined {
    return this.#cancelled;
  }

  /** Resolves when nothing of it runs any more, however it ended. */
  async settled(): Promise<void> {
    await this.result.catch(() => undefined);
  }

  /**
   * Changes the usage the context will have; false if it is too late, since the work is over. What
   * counts from now is shown so until the context is stored, and counts from then.
   */
  changeUsage(request: UsageRequest, nowMs: number): boolean {
    if (this.#over) return false;
    const change = usageChange(request, nowMs);
    if (Object.keys(change).length === 0) return true;
    this.#change = laterUsage(this.#change ?? {}, request);
    this.#pending = { ...this.#pending, usage: { ...this.#pending.usage, ...change } };
    return true;
  }

  /** Stops the engine's work; whoever waits gets `reason`. */
  cancel(reason: ReadonceError): void {
    this.#cancelled ??= reason;
    this.#abort.abort(reason);
  }

  /**
   * Calls `listener` with the latest progress, if there is some, and with every event from now on.
   * @returns stops listening
   */
  follow(listener: (event: IngestionEvent) => void): () => void {
    if (this.#latest !== undefined) listener({ kind: 'progress', progress: this.#latest });
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async #run(work: IngestionWork): Promise<Ingested> {
    // Not before the constructor has returned: the engine may report at once.
    await Promise.resolve();
    try {
      const onProgress = (progress: IngestProgress) => {
        this.#latest = progress;
        this.#emit({ kind: 'progress', progress });
      };
      const ingested = await work.ingest(onProgress, this.#abort.signal);
      let { stored } = ingested;
      while (this.#change !== undefined) {
        const change = this.#change;
        this.#change = undefined;
        stored = (await work.update(change)) ?? stored;
      }
      this.#over = true;
      if (this.#cancelled !== undefined) throw this.#cancelled;
      this.#emit({ kind: 'ready', stored });
      return { ...ingested, stored };
    } catch (thrown) {
      const error = this.#cancelled ?? asReadonceError(thrown);
      this.#emit({ kind: 'failed', error });
      throw error;
    } finally {
      this.#over = true;
      this.#listeners.clear();
    }
  }

  #emit(event: IngestionEvent): void {
    for (const listener of this.#listeners) listener(event);
  }
}
