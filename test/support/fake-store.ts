import type { Reservation } from '../../storage/reservation.ts';
import { tmpdir } from 'node:os';
import type { ContextUsage, StoredContext } from '../../src/core/context.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import { pairBytes } from '../../src/core/kv-layout.ts';
import type {
  Collected,
  ContextStore,
  ContextWrite,
  HeadPairs,
  HeadRanking,
  ListOptions,
  ListPage,
  QuarantinedContext,
  RowReading,
  StoreStats,
  TokenIds,
  VerifiedContext,
} from '../../storage/context-store.ts';

/** A context store in memory: what the service needs of one, without pairs. */
export class FakeStore implements ContextStore {
  readonly folder = tmpdir();
  readonly contexts = new Map<string, StoredContext>();
  /** Ids whose records fail their checksum. */
  readonly corrupt = new Set<string>();
  readonly #rankings = new Map<string, readonly HeadRanking[]>();

  get(id: string): StoredContext | undefined {
    if (this.corrupt.has(id)) throw new ReadonceError('corrupt_record', 'Checksum differs.');
    return this.contexts.get(id);
  }

  family(family: string): readonly StoredContext[] {
    return [...this.contexts.values()].filter(({ record }) => record.family === family);
  }

  list({ tenant, limit, cursor, label }: ListOptions): ListPage {
    const start = cursor === undefined ? 0 : Number(cursor);
    if (!Number.isInteger(start)) {
      throw new ReadonceError('invalid_argument', 'Expected a cursor of an earlier page.');
    }
    const all = [...this.contexts.values()]
      .filter(({ record }) => record.tenant === tenant)
      .filter(({ usage }) => label === undefined || usage.labels[label.key] === label.value)
      .reverse();
    const end = start + limit;
    return {
      contexts: all.slice(start, end),
      nextCursor: end < all.length ? String(end) : null,
    };
  }

  isListed({ tenant, id }: { readonly tenant: string; readonly id: string }): boolean {
    return this.contexts.get(id)?.record.tenant === tenant;
  }

  secret(): Uint8Array {
    return new Uint8Array(32);
  }

  tokenIds(_id: string): TokenIds {
    return { prefixIds: new Int32Array(), documentIds: new Int32Array() };
  }

  async write(write: ContextWrite): Promise<StoredContext> {
    const { usage } = write;
    const record = { ...write.record, timings: write.timings() };
    const pairs = record.pairCounts.reduce((sum, count) => sum + count, 0);
    const storedBytes = pairBytes(record.layout, pairs, 2);
    const stored = { record, usage, storedBytes, diskBytes: storedBytes + 512 };
    this.contexts.set(record.id, stored);
    this.#rankings.set(
      record.id,
      record.pairCounts.map((_, head) => write.ranking(head)),
    );
    return stored;
  }

  async reserve(id: string): Promise<StoredContext | Reservation> {
    return this.contexts.get(id) ?? { release: () => undefined };
  }

  requireRoom(): void {}

  *readPairs(_id: string, _head: number): Iterable<HeadPairs> {}

  readRows(): RowReading {
    const close = (): void => undefined;
    return { take: () => true, ready: () => Promise.resolve(), close };
  }

  readRanking(id: string, head: number): HeadRanking {
    const ranking = this.#rankings.get(id)?.[head];
    if (ranking === undefined) throw new ReadonceError('not_found', 'No such ranking.');
    return ranking;
  }

  async update(id: string, change: Partial<ContextUsage>): Promise<StoredContext | undefined> {
    const stored = this.contexts.get(id);
    if (stored === undefined) return undefined;
    const updated = { ...stored, usage: { ...stored.usage, ...change } };
    this.contexts.set(id, updated);
    return updated;
  }

  async delete(id: string): Promise<boolean> {
    return this.contexts.delete(id);
  }

  touch(id: string, usedAtMs: number): void {
    const stored = this.contexts.get(id);
    if (stored === undefined) return;
    const usage = { ...stored.usage, lastUsedAtMs: usedAtMs };
    this.contexts.set(id, { ...stored, usage });
  }

  async sweep(): Promise<number> {
    return 0;
  }

  quarantine(id: string): boolean {
    this.corrupt.delete(id);
    return this.contexts.delete(id);
  }

  listQuarantined(): readonly QuarantinedContext[] {
    return [];
  }

  async purgeQuarantine(): Promise<number> {
    return 0;
  }

  async *verify(): AsyncGenerator<VerifiedContext> {}

  stats(): StoreStats {
    return {
      contexts: this.contexts.size,
      contextBytes: 0,
      damaged: this.corrupt.size,
      quarantined: { contexts: 0, bytes: 0 },
      unfinished: 0,
      usedBytes: 4096,
      freeBytes: 0,
      fileBytes: 4096,
      fragmentation: 1,
    };
  }

  async gc(): Promise<Collected> {
    return { unfinished: 0, expired: 0, quarantined: 0, stray: 0 };
  }

  async compactTo(): Promise<void> {}

  async close(): Promise<void> {}
}
