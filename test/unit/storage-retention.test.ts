import { describe, expect, it } from 'vitest';
import { readFootprints } from '../../storage/footprints.ts';
import { idBytes } from '../../storage/keys.ts';
import { fixedClock, openStore, openTables, storeFolder } from '../support/storage-harness.ts';
import { largeSample, sampleContext, sampleId, type Sample } from '../support/storage-samples.ts';

const hourMs = 60 * 60 * 1000;
const startMs = 1_700_000_000_000;

/** About 2.1 MB on disk. */
function bulky(seed: number, usage: Parameters<typeof sampleContext>[0]['usage'] = {}): Sample {
  return sampleContext({
    seed,
    layers: 1,
    kvHeads: 2,
    rowBytes: 256,
    kept: [2000],
    createdAtMs: startMs,
    usage,
  });
}

describe('a quota', () => {
  /** Room for three bulky contexts, not for four. */
  const maxBytes = 7_500_000;

  it('removes expired contexts first, then the least recently used, and no more than needed', async () => {
    const clock = fixedClock(startMs);
    const folder = storeFolder();
    const store = await openStore({ folder, maxBytes, clock });
    await store.write(bulky(1, { lastUsedAtMs: startMs + 1 }));
    await store.write(bulky(2, { lastUsedAtMs: startMs + 3, expiresAtMs: startMs + 10 }));
    await store.write(bulky(3, { lastUsedAtMs: startMs + 2 }));
    clock.set(startMs + 20);

    const left = (): number[] =>
      [1, 2, 3, 4, 5, 6].filter((seed) => store.get(sampleId(seed)) !== undefined);
    await store.write(bulky(4, { lastUsedAtMs: startMs + 20 }));
    expect(left()).toEqual([1, 3, 4]);
    await store.write(bulky(5, { lastUsedAtMs: startMs + 20 }));
    expect(left()).toEqual([3, 4, 5]);
    await store.update(sampleId(3), { lastUsedAtMs: startMs + 30 });
    await store.write(bulky(6, { lastUsedAtMs: startMs + 40 }));
    expect(left()).toHaveLength(3);
    expect(left()).toContain(3);
    expect(openTables(folder).usedBytes()).toBeLessThanOrEqual(maxBytes);
  });

  it('never removes a pinned context, and removes none when that would not help', async () => {
    const store = await openStore({ maxBytes });
    await store.write(bulky(1, { pinned: true }));
    await store.write(bulky(2, { pinned: true }));
    await store.write(sampleContext({ seed: 3 }));
    await store.update(sampleId(3), { pinned: false });
    await store.write(bulky(4, { pinned: true }));
    await expect(store.write(bulky(5))).rejects.toMatchObject({
      code: 'storage_full',
      details: { maxBytes },
    });
    for (const seed of [1, 2, 3, 4]) expect(store.get(sampleId(seed))).toBeDefined();
  });

  it('that pinned contexts are above keeps nobody from opening the store and reading', async () => {
    const folder = storeFolder();
    const before = await openStore({ folder });
    for (const seed of [1, 2]) await before.write(bulky(seed, { pinned: true }));
    await before.close();
    const after = await openStore({ folder, maxBytes: 2_500_000 });
    expect(await after.sweep()).toBe(0);
    expect(after.get(sampleId(1))).toBeDefined();
    await expect(after.write(bulky(3))).rejects.toMatchObject({ code: 'storage_full' });
  });

  it('holds at start-up too', async () => {
    const folder = storeFolder();
    const before = await openStore({ folder });
    for (const seed of [1, 2, 3, 4]) {
      await before.write(bulky(seed, { lastUsedAtMs: startMs + seed }));
    }
    await before.close();
    const after = await openStore({ folder, maxBytes });
    await after.sweep();
    expect(after.get(sampleId(1))).toBeUndefined();
    expect(after.get(sampleId(4))).toBeDefined();
    expect(openTables(folder).usedBytes()).toBeLessThanOrEqual(maxBytes);
  });
});

describe('a quota that several writes want at once', () => {
  it('is kept at every moment: one is refused, and leaves nothing', async () => {
    // Two of 27 MB, each in two transactions: when the second begins, there still seems to be room.
    const maxBytes = 48_000_000;
    const folder = storeFolder();
    const store = await openStore({ folder, maxBytes });
    const env = openTables(folder);
    let mostBytes = 0;
    const watched = (seed: number): Sample => {
      const sample = largeSample(seed);
      const ranking: Sample['ranking'] = (head) => {
        mostBytes = Math.max(mostBytes, env.usedBytes());
        return sample.ranking(head);
      };
      return { ...sample, ranking };
    };
    const written = await Promise.allSettled([1, 2].map((seed) => store.write(watched(seed))));
    expect(written.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'rejected']);
    const refused = written.find((result) => result.status === 'rejected');
    expect(refused?.reason).toMatchObject({ code: 'storage_full' });
    expect(mostBytes).toBeLessThanOrEqual(maxBytes);
    expect(env.usedBytes()).toBeLessThanOrEqual(maxBytes);
    expect(store.stats()).toMatchObject({ contexts: 1, unfinished: 0 });
  });

  it('is not kept by removing what was pinned in the meantime', async () => {
    const folder = storeFolder();
    const other = await openStore({ folder });
    for (const seed of [1, 2, 3]) await other.write(bulky(seed, { lastUsedAtMs: startMs + seed }));
    const removed: unknown[] = [];
    const pinNext = (fields: Readonly<Record<string, unknown>>): void => {
      removed.push(fields['contextId']);
      void other.update(sampleId(2), { pinned: true });
    };
    const log = { info: pinNext, warn: () => undefined };
    const store = await openStore({ folder, maxBytes: 3_000_000, log });
    await store.sweep();
    expect(removed).toEqual([sampleId(1), sampleId(3)]);
    expect(store.get(sampleId(2))?.usage.pinned).toBe(true);
  });
});

describe('counting again', () => {
  it('sees what was changed, damaged or removed since', async () => {
    const folder = storeFolder();
    const store = await openStore({ folder });
    for (const seed of [1, 2, 3]) await store.write(sampleContext({ seed }));
    const env = openTables(folder);
    expect(readFootprints(env)).toMatchObject({ damaged: 0, intact: [{}, {}, {}] });

    await store.update(sampleId(1), { pinned: true });
    const key = idBytes(sampleId(2));
    const value = Buffer.from(env.tables.catalogue.get(key) ?? []);
    value.writeUInt8(value.readUInt8(100) ^ 1, 100);
    env.transact(() => env.tables.catalogue.putSync(key, value));
    await store.delete(sampleId(3));
    const { intact, damaged } = readFootprints(env);
    expect(damaged).toBe(1);
    expect(intact).toEqual([
      expect.objectContaining({ id: sampleId(1), pinned: true, lastUsedAtMs: startMs }),
    ]);
  });
});

describe('what a store says it uses', () => {
  it('is the same after a restart, and goes back when contexts go', async () => {
    const folder = storeFolder();
    const store = await openStore({ folder });
    const empty = store.stats();
    for (const seed of [1, 2, 3]) await store.write(bulky(seed));
    const full = store.stats();
    expect(full.contexts).toBe(3);
    expect(full.usedBytes - empty.usedBytes).toBeGreaterThan(full.contextBytes);
    // Pieces are rounded up to pages, the last of a run by half a page on the average.
    expect(full.usedBytes - empty.usedBytes).toBeLessThan(1.05 * full.contextBytes);
    await store.close();

    const again = await openStore({ folder });
    await again.sweep();
    expect(again.stats()).toEqual(full);
    for (const seed of [1, 2, 3]) await again.delete(sampleId(seed));
    const { contexts, contextBytes, usedBytes, freeBytes, fileBytes } = again.stats();
    expect({ contexts, contextBytes }).toEqual({ contexts: 0, contextBytes: 0 });
    expect(usedBytes + freeBytes).toBe(fileBytes);
    // LMDB's list of free pages takes a few itself.
    expect(usedBytes - empty.usedBytes).toBeLessThan(10 * 4096);
  });

  it('counts what a context says it takes on disk', async () => {
    const store = await openStore();
    const written = await store.write(bulky(1, { expiresAtMs: startMs + hourMs }));
    expect(store.stats().contextBytes).toBe(written.diskBytes);
    await store.update(sampleId(1), { expiresAtMs: null });
    expect(store.stats().contextBytes).toBeLessThan(written.diskBytes);
  });
});

describe('an expired context', () => {
  it('can still be found for a day, then the sweep removes it', async () => {
    const clock = fixedClock(startMs);
    const store = await openStore({ clock });
    await store.write(sampleContext({ seed: 1, usage: { expiresAtMs: startMs + hourMs } }));
    await store.write(sampleContext({ seed: 2 }));
    clock.set(startMs + 24 * hourMs);
    expect(await store.sweep()).toBe(0);
    expect(store.get(sampleId(1))?.usage.expiresAtMs).toBe(startMs + hourMs);
    clock.set(startMs + 26 * hourMs);
    await store.sweep();
    expect(store.get(sampleId(1))).toBeUndefined();
    expect(store.get(sampleId(2))).toBeDefined();
  });

  it('is removed by later writes too, without a restart', async () => {
    const clock = fixedClock(startMs);
    const store = await openStore({ clock });
    await store.write(sampleContext({ seed: 1, usage: { expiresAtMs: startMs + 10 } }));
    clock.set(startMs + 10 + 25 * hourMs);
    await store.write(sampleContext({ seed: 2 }));
    expect(store.get(sampleId(1))).toBeUndefined();
  });

  it('stays when its expiry was put off or taken away before the sweep', async () => {
    const clock = fixedClock(startMs);
    const store = await openStore({ clock });
    for (const seed of [1, 2]) {
      await store.write(sampleContext({ seed, usage: { expiresAtMs: startMs + hourMs } }));
    }
    await store.update(sampleId(1), { expiresAtMs: startMs + 100 * hourMs });
    await store.update(sampleId(2), { expiresAtMs: null });
    clock.set(startMs + 50 * hourMs);
    expect(await store.gc()).toMatchObject({ expired: 0 });
    expect(store.get(sampleId(1))).toBeDefined();
    clock.set(startMs + 200 * hourMs);
    expect(await store.gc()).toMatchObject({ expired: 1 });
    expect(store.get(sampleId(1))).toBeUndefined();
    expect(store.get(sampleId(2))).toBeDefined();
  });
});
