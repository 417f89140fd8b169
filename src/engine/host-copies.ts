import type { ContextRecord } from '../core/context.ts';
import { ReadonceError } from '../core/errors.ts';
import type { ContextCache, HostCopy, HostTier } from '../runtime/runtime.ts';

interface Kept {
  /** Of the record: a context that was made again is another one. */
  readonly createdAtMs: number;
  readonly copy: HostCopy;
}

/**
 * Copies in host memory of contexts that gave way on the device, bounded, the least recently used
 * ones leaving first. A copy stays when its context is back on the device: it need not be made
 * again when that gives way once more.
 */
export class HostCopies {
  readonly #tier: HostTier;
  /** By context id, in order of last use. */
  readonly #kept = new Map<string, Kept>();
  #restoring: HostCopy | undefined;

  constructor(tier: HostTier) {
    this.#tier = tier;
  }

  /** Bytes of host memory held. */
  get sizeBytes(): number {
    return [...this.#kept.values()].reduce((sum, { copy }) => sum + copy.sizeBytes, 0);
  }

  /** Keeps a copy of a context, unless there is one with as many rows, or no room for it. */
  keep(record: ContextRecord, cache: ContextCache): void {
    if (this.find(record, cache.lengths) !== undefined) return;
    this.drop(record.id);
    const bytes = this.#tier.copyBytes(cache.lengths);
    if (bytes > this.#tier.poolBytes) return;
    while (this.sizeBytes + bytes > this.#tier.poolBytes) {
      if (!this.#dropOldest()) return;
    }
    try {
      this.#kept.set(record.id, {
        createdAtMs: record.createdAtMs,
        copy: this.#tier.copy(cache),
      });
    } catch (error) {
      // A copy saves time, no more: without it the context is read from disk.
      if (!(error instanceof ReadonceError) || error.code !== 'out_of_memory') throw error;
    }
  }

  /** A copy of the context with at least `lengths` rows in each head. */
  find(record: ContextRecord, lengths: Uint32Array): HostCopy | undefined {
    const kept = this.#kept.get(record.id);
    if (kept === undefined) return undefined;
    if (kept.createdAtMs !== record.createdAtMs) {
      this.drop(record.id);
      return undefined;
    }
    const has = lengths.every((length, head) => length <= (kept.copy.lengths[head] as number));
    if (!has) return undefined;
    // Re-inserting makes it the most recently used.
    this.#kept.delete(record.id);
    this.#kept.set(record.id, kept);
    return kept.copy;
  }

  /**
   * A context with at least `lengths` rows of a copy, which stays while `makeRoom` lets others give
   * way.
   */
  restore(copy: HostCopy, lengths: Uint32Array, makeRoom: () => void): ContextCache {
    this.#restoring = copy;
    try {
      makeRoom();
      return this.#tier.restore(copy, lengths);
    } finally {
      this.#restoring = undefined;
    }
  }

  drop(contextId: string): void {
    this.#kept.get(contextId)?.copy.close();
    this.#kept.delete(contextId);
  }

  close(): void {
    for (const { copy } of this.#kept.values()) copy.close();
    this.#kept.clear();
  }

  #dropOldest(): boolean {
    for (const [id, { copy }] of this.#kept) {
      if (copy === this.#restoring) continue;
      this.drop(id);
      return true;
    }
    return false;
  }
}
