import { expect, it } from 'vitest';
import type { ContextStore } from '../../storage/context-store.ts';
import {
  entryCounts,
  fixedClock,
  noEntries,
  openStore,
  openTables,
  storeFolder,
} from '../support/storage-harness.ts';
import {
  expectedContent,
  readWhole,
  sampleContext,
  type Sample,
} from '../support/storage-samples.ts';

const everything = { tenant: '', limit: 100, cursor: undefined, label: undefined };
const dayMs = 24 * 60 * 60 * 1000;
const fault = { reason: 'a checksum mismatch' };
const sample = sampleContext({ seed: 1, usage: { expiresAtMs: 1_800_000_000_000 } });
const { id } = sample.record;

async function storeWith(...samples: readonly Sample[]) {
  const folder = storeFolder();
  const clock = fixedClock(1_700_000_000_000);
  const store = await openStore({ folder, clock });
  for (const each of samples) await store.write(each);
  return { folder, store, clock, env: openTables(folder) };
}

/** Flips a bit in the first piece of pairs that the store holds. */
function damageSegment(env: ReturnType<typeof openTables>): void {
  env.transact(() => {
    const [entry] = env.tables.segments.getRange({ start: Buffer.from([0]), limit: 1 });
    const value = Buffer.from(entry?.value ?? []);
    value[70] = (value[70] ?? 0) ^ 1;
    env.tables.segments.putSync(Buffer.from(entry?.key ?? []), value);
  });
}

function seen(store: ContextStore): readonly string[] {
  return store.list(everything).contexts.map(({ record }) => record.id);
}

it('hides a context, keeps its bytes, and says why', async () => {
  const other = sampleContext({ seed: 2 });
  const { store, env } = await storeWith(sample, other);
  const before = entryCounts(env);
  const diskBytes = store.get(id)?.diskBytes ?? 0;
  expect(store.quarantine(id, fault)).toBe(true);

  expect(store.get(id)).toBeUndefined();
  expect(seen(store)).toEqual([other.record.id]);
  expect(store.family(sample.record.family)).not.toContainEqual(
    expect.objectContaining({ record: expect.objectContaining({ id }) }),
  );
  expect(() => [...store.readPairs(id, 0)]).toThrow(expect.objectContaining({ code: 'not_found' }));
  const [kept] = store.listQuarantined();
  expect(kept).toMatchObject({ id, reason: fault.reason, quarantinedAtMs: 1_700_000_000_000 });
  expect(kept?.bytes).toBeGreaterThan(0.9 * diskBytes);
  const { segments, rankings, tokens } = entryCounts(env);
  expect({ segments, rankings, tokens }).toEqual({
    segments: before['segments'],
    rankings: before['rankings'],
    tokens: before['tokens'],
  });
  expect(store.stats()).toMatchObject({
    contexts: 1,
    quarantined: { contexts: 1, bytes: kept?.bytes },
    unfinished: 0,
  });
});

it('takes the same context again, beside what is kept of the old one', async () => {
  const { store, env } = await storeWith(sample);
  damageSegment(env);
  store.quarantine(id, fault);
  const damaged = entryCounts(env);
  await store.write(sample);
  expect(readWhole(store, sample)).toMatchObject(expectedContent(sample));
  expect(entryCounts(env)['segments']).toBe(2 * (damaged['segments'] ?? 0));
  expect(store.listQuarantined()).toHaveLength(1);
});

it('keeps the last quarantine of an id only', async () => {
  const { store, env, clock } = await storeWith(sample);
  store.quarantine(id, fault);
  const once = entryCounts(env);
  await store.write(sample);
  clock.set(clock.nowMs() + 5);
  expect(store.quarantine(id, { reason: 'a second reason' })).toBe(true);
  expect(store.listQuarantined()).toMatchObject([{ id, reason: 'a second reason' }]);
  expect(entryCounts(env)).toEqual(once);
});

it('survives restarts, sweeps and the deletion of the rebuilt context', async () => {
  const { folder, store, env } = await storeWith(sample);
  store.quarantine(id, fault);
  const kept = entryCounts(env);
  await store.close();
  const again = await openStore({ folder });
  await again.sweep();
  await again.write(sample);
  await again.delete(id);
  expect(entryCounts(env)).toEqual(kept);
  expect(again.listQuarantined()).toHaveLength(1);
});

it('is purged whole, and the rebuilt context stays', async () => {
  const { store, env } = await storeWith(sample);
  const live = entryCounts(env);
  store.quarantine(id, fault);
  await store.write(sample);
  expect(await store.purgeQuarantine()).toBe(1);
  expect(await store.purgeQuarantine()).toBe(0);
  expect(entryCounts(env)).toEqual(live);
  expect(readWhole(store, sample)).toMatchObject(expectedContent(sample));
});

it('is collected after thirty days', async () => {
  const { store, env, clock } = await storeWith(sample);
  store.quarantine(id, fault);
  clock.set(clock.nowMs() + 29 * dayMs);
  expect(await store.gc()).toMatchObject({ quarantined: 0 });
  clock.set(clock.nowMs() + 2 * dayMs);
  expect(await store.gc()).toEqual({ quarantined: 1, unfinished: 0, expired: 0, stray: 0 });
  expect(entryCounts(env)).toEqual(noEntries);
});

it('leaves a context alone that was rebuilt since the fault was found', async () => {
  const { store, env } = await storeWith(sample);
  damageSegment(env);
  const found = [];
  for await (const { fault: each } of store.verify()) found.push(each);
  const [first] = found;
  expect(first?.generation).toBe(1);
  expect(store.quarantine(id, first ?? fault)).toBe(true);
  await store.write(sample);
  expect(store.quarantine(id, first ?? fault)).toBe(false);
  expect(readWhole(store, sample)).toMatchObject(expectedContent(sample));
});

it('moves a context aside whose catalogue record is broken', async () => {
  const { store, env } = await storeWith(sample);
  const [key] = env.read((transaction) =>
    Array.from(env.tables.catalogue.getKeys({ start: Buffer.from([0]), transaction })),
  );
  env.transact(() => env.tables.catalogue.putSync(key as Buffer, Buffer.alloc(80)));
  expect(() => store.get(id)).toThrow(expect.objectContaining({ code: 'corrupt_record' }));
  expect(store.stats()).toMatchObject({ contexts: 0, damaged: 1 });
  expect(store.quarantine(id, fault)).toBe(true);
  expect(store.get(id)).toBeUndefined();
  expect(store.listQuarantined()[0]?.bytes).toBeGreaterThan(1000);
  await store.write(sample);
  await store.delete(id);
  await store.purgeQuarantine();
  await store.sweep();
  expect(entryCounts(env)).toEqual(noEntries);
});

it('is what a write does with broken records, again and again', async () => {
  const { store, env } = await storeWith(sample);
  for (let time = 1; time <= 3; time++) {
    const [key] = env.read((transaction) =>
      Array.from(env.tables.usage.getKeys({ start: Buffer.from([0]), transaction })),
    );
    env.transact(() => env.tables.usage.putSync(key as Buffer, Buffer.alloc(80)));
    await store.write(sample);
    expect(readWhole(store, sample)).toMatchObject(expectedContent(sample));
    expect(store.listQuarantined()).toHaveLength(1);
    expect(store.stats()).toMatchObject({ contexts: 1, damaged: 0, unfinished: 0 });
  }
});

it('makes room for a write before any context does', async () => {
  const bulky = (seed: number): Sample =>
    sampleContext({ seed, layers: 1, kvHeads: 2, rowBytes: 256, kept: [2000] });
  const folder = storeFolder();
  const store = await openStore({ folder, maxBytes: 7_500_000 });
  for (const seed of [1, 2, 3]) await store.write(bulky(seed));
  store.quarantine(bulky(2).record.id, fault);
  await store.write(bulky(4));
  expect(store.listQuarantined()).toEqual([]);
  for (const seed of [1, 3, 4]) expect(store.get(bulky(seed).record.id)).toBeDefined();
});

it('is not possible of what is not there', async () => {
  const { store } = await storeWith();
  expect(store.quarantine(id, fault)).toBe(false);
  expect(store.quarantine('../..', fault)).toBe(false);
  expect(store.listQuarantined()).toEqual([]);
});
