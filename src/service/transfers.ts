import { resolveBudget, resolvePrecision } from '../compression/registry.ts';
import type { ContextRecord, StoredContext } from '../core/context.ts';
import { ReadonceError } from '../core/errors.ts';
import { exportContext } from '../../storage/portable/export.ts';
import { importContext } from '../../storage/portable/import.ts';
import { Admission } from './admission.ts';
import { resolveCompression } from './compression.ts';
import type { ContextLookup } from './context-lookup.ts';
import { readyView, type ContextView } from './context-view.ts';
import type { ContextRef } from './context-ref.ts';
import { engineInfo } from './engine-info.ts';
import type { ServiceDeps } from './deps.ts';
import type { TenantSalts } from './tenant-salts.ts';
import { hasExpired } from './usage-change.ts';

/** The imported context, as it is now. */
export interface ImportResult {
  /** `reused`: it was stored already. */
  readonly outcome: 'created' | 'reused';
  readonly context: ContextView;
}

/** The use cases that carry contexts from one store to another as files. */
export class Transfers {
  readonly #deps: ServiceDeps;
  readonly #lookup: ContextLookup;
  readonly #imports: Admission;

  readonly #salts: TenantSalts;

  constructor(deps: ServiceDeps, lookup: ContextLookup, salts: TenantSalts) {
    this.#deps = deps;
    this.#lookup = lookup;
    this.#salts = salts;
    this.#imports = new Admission('imports', { all: deps.limits.maxImports });
  }

  /**
   * A context as a file. An error while it is read (`corrupt_record`, which moves the context
   * aside, or `not_found` when it is deleted meanwhile) ends the iteration.
   * @throws ReadonceError `not_found`, `gone`, `conflict` (not ready)
   */
  export(ref: ContextRef): AsyncGenerator<Uint8Array> {
    return this.#parts(this.#lookup.ready(ref).record.id);
  }

  async *#parts(id: string): AsyncGenerator<Uint8Array> {
    try {
      yield* exportContext(this.#deps.store, id);
    } catch (error) {
      this.#lookup.noteDamage(id, error);
      throw error;
    }
  }

  /**
   * Stores the context of a file as the tenant's, whoever exported it. One that is stored already
   * is kept as it is, and revived if it has expired.
   * @throws ReadonceError `invalid_argument` (damaged, or it contradicts itself),
   *   `identity_mismatch` (another model), `unsupported`, `rate_limited`, `overloaded`,
   *   `engine_unavailable` (no engine has started yet to say what model it runs), `storage_full`;
   *   what `stream` throws; the reason of `signal`
   */
  import(
    tenant: string,
    stream: AsyncIterable<Uint8Array>,
    signal: AbortSignal,
  ): Promise<ImportResult> {
    return this.#imports.run(tenant, () => this.#import(tenant, stream, signal));
  }

  async #import(
    tenant: string,
    stream: AsyncIterable<Uint8Array>,
    signal: AbortSignal,
  ): Promise<ImportResult> {
    const { store, engine, clock, logger } = this.#deps;
    const target = {
      store,
      owner: { tenant, tenantSalt: this.#salts.saltOf(tenant) },
      model: engineInfo(engine),
      rowBytes: (record: ContextRecord) => this.#rowBytes(record),
      usage: { lastUsedAtMs: clock.nowMs(), expiresAtMs: null, pinned: false },
    };
    const { stored, reused } = await importContext(stream, target, signal).catch(
      (error: unknown) => {
        // A transfer that breaks off fails in its stream, too.
        throw signal.aborted ? signal.reason : error;
      },
    );
    logger.info({ contextId: stored.record.id, reused }, 'context imported');
    if (!reused) return { outcome: 'created', context: readyView(stored, false) };
    return { outcome: 'reused', context: readyView(await this.#revived(stored), true) };
  }

  /** @throws ReadonceError `invalid_argument`, `unsupported` */
  #rowBytes({ compression, layout, pairCounts, prefixTokens, document }: ContextRecord): number {
    const { budget, precision } = resolveCompression(compression, this.#deps.defaults);
    const could = resolveBudget(budget).couldKeep({
      counts: pairCounts.map((count) => count - prefixTokens),
      documentTokens: document.tokens,
      keepRatio: compression.keepRatio,
    });
    if (could) return resolvePrecision(precision).encodedBytes(1, layout.headDim);
    throw new ReadonceError(
      'invalid_argument',
      `Expected as many pairs as ${budget} keeps at ${compression.keepRatio} but got others; ` +
        'export the context again',
    );
  }

  async #revived(stored: StoredContext): Promise<StoredContext> {
    const { store, clock } = this.#deps;
    const nowMs = clock.nowMs();
    if (!hasExpired(stored.usage, nowMs)) return stored;
    const change = { lastUsedAtMs: nowMs, expiresAtMs: null };
    return (await store.update(stored.record.id, change)) ?? stored;
  }
}
