import { expect, it } from 'vitest';
import { openStore, storeFolder } from '../support/storage-harness.ts';
import { sampleContext, sampleId } from '../support/storage-samples.ts';

const startMs = 1_700_000_000_000;
const everything = { tenant: '', limit: 100, cursor: undefined, label: undefined };
const sample = sampleContext({ seed: 1, createdAtMs: startMs });
const { id } = sample.record;

it('is known at once, and to everyone once the store closes', async () => {
  const folder = storeFolder();
  const [store, other] = [await openStore({ folder }), await openStore({ folder })];
  await store.write(sample);
  store.touch(id, startMs + 5);
  expect(store.get(id)?.usage.lastUsedAtMs).toBe(startMs + 5);
  expect(store.list(everything).contexts[0]?.usage.lastUsedAtMs).toBe(startMs + 5);
  expect(store.family(sample.record.family)[0]?.usage.lastUsedAtMs).toBe(startMs + 5);
  expect(other.get(id)?.usage.lastUsedAtMs).toBe(startMs);
  await store.close();
  expect(other.get(id)?.usage).toEqual({ ...sample.usage, lastUsedAtMs: startMs + 5 });
});

it('never goes back, and stays when something else is changed', async () => {
  const store = await openStore();
  await store.write(sample);
  store.touch(id, startMs + 9);
  store.touch(id, startMs + 5);
  const updated = await store.update(id, { pinned: true });
  expect(updated?.usage).toEqual({ ...sample.usage, pinned: true, lastUsedAtMs: startMs + 9 });
});

it('of what is not there, or goes, harms nothing', async () => {
  const folder = storeFolder();
  const store = await openStore({ folder });
  await store.write(sample);
  store.touch(id, startMs + 5);
  store.touch(sampleId(77), startMs + 5);
  store.touch('nonsense', startMs + 5);
  await store.delete(id);
  expect(store.get(id)).toBeUndefined();
  await store.close();
  const again = await openStore({ folder });
  expect(again.list(everything).contexts).toEqual([]);
});

it('decides which context goes to make room', async () => {
  const bulky = (seed: number) =>
    sampleContext({ seed, layers: 1, kvHeads: 2, rowBytes: 256, kept: [2000] });
  const store = await openStore({ maxBytes: 7_500_000 });
  for (const seed of [1, 2, 3]) await store.write(bulky(seed));
  store.touch(sampleId(1), startMs + 1000);
  store.touch(sampleId(3), startMs + 1000);
  await store.write(bulky(4));
  expect(store.get(sampleId(2))).toBeUndefined();
  expect(store.get(sampleId(1))).toBeDefined();
});
