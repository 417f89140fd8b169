import type { StoredContext } from '../core/context.ts';
import { ReadonceError } from '../core/errors.ts';
import { contextIdPattern } from '../core/identity.ts';
import { faultOf } from '../../storage/fault.ts';
import type { ContextRef } from './context-ref.ts';
import type { Ingestion } from './ingestion.ts';
import type { FailedIngestion, Ingestions } from './ingestions.ts';
import type { ServiceDeps } from './deps.ts';
import { unload } from './unload.ts';
import { hasExpired } from './usage-change.ts';

/** Where a context stands. */
export type Lookup =
  | { readonly status: 'ready'; readonly stored: StoredContext }
  | { readonly status: 'ingesting'; readonly ingestion: Ingestion }
  | { readonly status: 'failed'; readonly failed: FailedIngestion };

type LookupDeps = Pick<ServiceDeps, 'store' | 'clock' | 'engine' | 'logger'>;

/**
 * Finds a tenant's contexts by id, stored, being ingested or failed. Others' are as unknown as
 * those that there never were.
 */
export class ContextLookup {
  readonly #deps: LookupDeps;
  readonly #ingestions: Ingestions;

  constructor(deps: LookupDeps, ingestions: Ingestions) {
    this.#deps = deps;
    this.#ingestions = ingestions;
  }

  /** @throws ReadonceError `not_found` (malformed ids too), `gone`, `corrupt_record` */
  find(ref: ContextRef): Lookup {
    const { tenant, id } = ref;
    if (!contextIdPattern.test(id)) throw notFound();
    const ingestion = this.#ingestions.running(id);
    if (ingestion !== undefined) {
      if (ingestion.pending.tenant !== tenant) throw notFound();
      if (ingestion.cancelled !== undefined) throw notFound();
      return { status: 'ingesting', ingestion };
    }
    const stored = this.#intact(ref);
    if (stored !== undefined) {
      if (hasExpired(stored.usage, this.#deps.clock.nowMs())) throw gone();
      return { status: 'ready', stored };
    }
    const failed = this.#ingestions.failed(id);
    if (failed?.pending.tenant !== tenant) throw notFound();
    return { status: 'failed', failed };
  }

  /** Whether there is anything of this id, in whatever state, and it is the tenant's. */
  isOwn(ref: ContextRef): boolean {
    const { tenant, id } = ref;
    if (!contextIdPattern.test(id)) return false;
    const known = this.#ingestions.running(id) ?? this.#ingestions.failed(id);
    if (known !== undefined) return known.pending.tenant === tenant;
    try {
      return this.#deps.store.get(id)?.record.tenant === tenant;
    } catch (error) {
      if (isCorrupt(error)) return this.#isListed(ref);
      throw error;
    }
  }

  /** What fails a check is quarantined: the next look finds nothing, and a PUT rebuilds it. */
  #intact(ref: ContextRef): StoredContext | undefined {
    const { tenant, id } = ref;
    const { store } = this.#deps;
    try {
      const stored = store.get(id);
      return stored?.record.tenant === tenant ? stored : undefined;
    } catch (error) {
      if (isCorrupt(error)) {
        if (!this.#isListed(ref)) return undefined;
        this.noteDamage(id, error);
      }
      throw error;
    }
  }

  /**
   * If reading a context failed since what is stored fails a check: it is not read again, and a PUT
   * rebuilds it.
   */
  noteDamage(id: string, error: unknown): void {
    if (!isCorrupt(error)) return;
    const fault = faultOf(error);
    this.#deps.logger.error({ contextId: id, ...fault }, 'stored context is damaged');
    this.#deps.store.quarantine(id, fault);
    void unload(this.#deps, id);
  }

  /** As `isOwn`, of a context whose records cannot be read. Without tenants all are one's own. */
  #isListed(ref: ContextRef): boolean {
    return ref.tenant === '' || this.#deps.store.isListed(ref);
  }

  /** @throws ReadonceError `conflict` if it is not ready, and what `find` throws */
  ready(ref: ContextRef): StoredContext {
    const found = this.find(ref);
    if (found.status === 'ready') return found.stored;
    if (found.status === 'ingesting') {
      throw new ReadonceError(
        'conflict',
        'Expected a context that is ready but got one still being ingested. Follow ' +
          `GET /contexts/${ref.id}/events until it is.`,
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

function isCorrupt(error: unknown): error is ReadonceError {
  return error instanceof ReadonceError && error.code === 'corrupt_record';
}

/** One text for malformed, unknown, deleted and others' ids: nothing is said of which it was. */
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
