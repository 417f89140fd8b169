import { assert } from '../core/assert.ts';
import type { ReadonceError } from '../core/errors.ts';
import { asReadonceError } from '../core/errors.ts';
import type { Ingested } from '../engine/protocol.ts';
import type { PendingContext } from './context-view.ts';
import { Ingestion, type IngestionWork } from './ingestion.ts';

/** Why a context is not there. Known to this process only: nothing of it is stored. */
export interface FailedIngestion {
  readonly pending: PendingContext;
  readonly error: ReadonceError;
}

/** Who is told how ingestions go: metrics and the log. */
export interface IngestionObserver {
  onStarted(): void;
  onReady(ingested: Ingested): void;
  onFailed(failed: FailedIngestion): void;
  onCancelled(): void;
  /** After any of the three above. */
  onSettled(): void;
}

/**
 * The ingestions that run, at most one for an id, and those that failed since the server started
 * (a bounded number; the oldest are forgotten).
 */
export class Ingestions {
  readonly #running = new Map<string, Ingestion>();
  readonly #failed = new Map<string, FailedIngestion>();
  readonly #maxFailed: number;
  readonly #observer: IngestionObserver;
  #closed: ReadonceError | undefined;

  constructor(maxFailed: number, observer: IngestionObserver) {
    this.#maxFailed = maxFailed;
    this.#observer = observer;
  }

  running(id: string): Ingestion | undefined {
    return this.#running.get(id);
  }

  failed(id: string): FailedIngestion | undefined {
    return this.#failed.get(id);
  }

  /** @throws the reason of `close`, once that was called: nothing may start any more */
  checkOpen(): void {
    if (this.#closed !== undefined) throw this.#closed;
  }

  /** Starts an ingestion; none of this id may be running. An earlier failure is forgotten. */
  start(pending: PendingContext, work: IngestionWork): Ingestion {
    const { id } = pending;
    assert(!this.#running.has(id), 'expected one ingestion at a time for an id');
    this.#failed.delete(id);
    const ingestion = new Ingestion(pending, work);
    this.#running.set(id, ingestion);
    this.#observer.onStarted();
    void this.#watch(ingestion);
    return ingestion;
  }

  /** Cancels a running ingestion and waits until nothing of it runs; false if none ran. */
  async cancel(id: string, reason: ReadonceError): Promise<boolean> {
    const ingestion = this.#running.get(id);
    if (ingestion === undefined) return false;
    ingestion.cancel(reason);
    await ingestion.settled();
    return true;
  }

  /** Forgets a failure; false if there was none. */
  forget(id: string): boolean {
    return this.#failed.delete(id);
  }

  /** Lets nothing start any more, cancels what runs and waits for it. Idempotent. */
  async close(reason: ReadonceError): Promise<void> {
    this.#closed ??= reason;
    await Promise.all([...this.#running.keys()].map((id) => this.cancel(id, reason)));
  }

  async #watch(ingestion: Ingestion): Promise<void> {
    const { id } = ingestion.pending;
    try {
      this.#observer.onReady(await ingestion.result);
    } catch (thrown) {
      if (ingestion.cancelled === undefined) {
        const failed = { pending: ingestion.pending, error: asReadonceError(thrown) };
        this.#remember(id, failed);
        this.#observer.onFailed(failed);
      } else {
        this.#observer.onCancelled();
      }
    } finally {
      this.#running.delete(id);
      this.#observer.onSettled();
    }
  }

  #remember(id: string, failed: FailedIngestion): void {
    this.#failed.set(id, failed);
    const oldest = this.#failed.keys().next();
    if (this.#failed.size > this.#maxFailed && !oldest.done) this.#failed.delete(oldest.value);
  }
}
