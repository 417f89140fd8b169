import type { StoredContext } from '../core/context.ts';
import { ReadonceError } from '../core/errors.ts';
import { contextIdPattern } from '../core/identity.ts';
import { faultOf } from '../../storage/fault.ts';
import type { Ingestion } from './ingestion.ts';
import type { FailedIngestion, Ingestions } from './ingestions.ts';
import type { ServiceDeps } from './deps.ts';
import { hasExpired } from './usage-change.ts';

/** Where a context stands. */
export type Lookup =
  | { readonly status: 'ready'; readonly stored: StoredContext }
  | { readonly status: 'ingesting'; readonly ingestion: Ingestion }
  | { readonly status: 'failed'; readonly failed: FailedIngestion };

/** Finds contexts by id, stored, being ingested or failed. */
export class ContextLookup {
  readonly #deps: Pick<ServiceDeps, 'store' | 'clock'>;
  readonly #ingestions: Ingestions;

  constructor(deps: Pick<ServiceDeps, 'store' | 'clock'>, ingestions: Ingestions) {
    this.#deps = deps;
    this.#ingestions = ingestions;
  }

  /** @throws ReadonceError `not_found` (malformed ids too), `gone`, `corrupt_record` */
  find(id: string): Lookup {
    if (!contextIdPattern.test(id)) throw notFound();
    const ingestion = this.#ingestions.running(id);
    if (ingestion?.cancelled !== undefined) throw notFound();
    if (ingestion !== undefined) return { status: 'ingesting', ingestion };
    const stored = this.#intact(id);
    if (stored !== undefined) {
      if (hasExpired(stored.usage, this.#deps.clock.nowMs())) throw gone();
      return { status: 'ready', stored };
    }
    const failed = this.#ingestions.failed(id);
    if (failed === undefined) throw notFound();
    return { status: 'failed', failed };
  }

  /** What fails a check is quarantined: the next look finds nothing, and a PUT rebuilds it. */
  #intact(id: string): StoredContext | undefined {
    const { store } = this.#deps;
    try {
      return store.get(id);
    } catch (error) {
      if (error instanceof ReadonceError && error.code === 'corrupt_record') {
        store.quarantine(id, faultOf(error));
      }
      throw error;
    }
  }

  /** @throws ReadonceError `conflict` if it is not ready, and what `find` throws */
  ready(id: string): StoredContext {
    const found = this.find(id);
    if (found.status === 'ready') return found.stored;
    if (found.status === 'ingesting') {
      throw new ReadonceError(
        'conflict',
        'Expected a context that is ready but got one still being ingested. Follow ' +
          `GET /contexts/${id}/events until it is.`,
        { retryAfterSeconds: 1 },
      );
    }
    throw new ReadonceError(
      'conflict',
      'Expected a context that is ready but got one whose ingestion failed ' +
        `(${found.failed.error.code}). Put its document again.`,
    );
  }
}

/** One text for malformed, unknown and deleted ids: nothing is said about which it was. */
export function notFound(): ReadonceError {
  return new ReadonceError(
    'not_found',
    'Expected the id of a stored context but got one that is unknown or deleted. ' +
      'GET /contexts lists what there is.',
  );
}

function gone(): ReadonceError {
  return new ReadonceError(
    'gone',
    'Expected a context that can be used but got one that has expired. ' +
      'Put its document again to revive it.',
  );
}
