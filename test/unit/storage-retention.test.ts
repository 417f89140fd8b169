import { describe, expect, it } from 'vitest';
import { fixedClock, openStore, openTables, storeFolder } from '../support/storage-harness.ts';
import { sampleContext, sampleId, type Sample } from '../support/storage-samples.ts';

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
});
