import { expect, it } from 'vitest';
import { assert } from '../../src/core/assert.ts';
import type { StoredContext } from '../../src/core/context.ts';
import type { Reservation } from '../../storage/reservation.ts';
import { openStore, storeFolder } from '../support/storage-harness.ts';
import { sampleContext } from '../support/storage-samples.ts';

function reservation(reserved: StoredContext | Reservation): Reservation {
  assert('release' in reserved, 'expected a reservation');
  return reserved;
}

it('lets one at a time make a context, in the order of their releases', async () => {
  const store = await openStore({ folder: storeFolder() });
  const { id } = sampleContext({ seed: 1 }).record;
  const first = reservation(await store.reserve(id));
  let isSecond = false;
  const second = store.reserve(id).then((reserved) => {
    isSecond = true;
    return reserved;
  });
  await new Promise((resolve) => setTimeout(resolve, 250));
  expect(isSecond).toBe(false);
  first.release();
  reservation(await second).release();
  first.release();
});

it('hands out what was stored meanwhile', async () => {
  const store = await openStore({ folder: storeFolder() });
  const sample = sampleContext({ seed: 1 });
  const { id } = sample.record;
  const mine = reservation(await store.reserve(id));
  const other = store.reserve(id);
  // Writing does not wait for a reservation: it is a promise to write.
  await store.write(sample);
  mine.release();
  expect(await other).toMatchObject({ record: { id } });
  expect(store.stats().unfinished).toBe(0);
});

it('keeps nobody from other contexts, and stops waiting when told to', async () => {
  const store = await openStore({ folder: storeFolder() });
  const [one, two] = [sampleContext({ seed: 1 }).record.id, sampleContext({ seed: 2 }).record.id];
  const mine = reservation(await store.reserve(one));
  reservation(await store.reserve(two)).release();
  const patience = new AbortController();
  const waiting = store.reserve(one, patience.signal);
  patience.abort(new Error('enough'));
  await expect(waiting).rejects.toThrow();
  mine.release();
});

it('survives a sweep while its process lives', async () => {
  const store = await openStore({ folder: storeFolder() });
  const { id } = sampleContext({ seed: 1 }).record;
  const mine = reservation(await store.reserve(id));
  expect(await store.sweep()).toBe(0);
  expect(store.stats().unfinished).toBe(1);
  mine.release();
  expect(store.stats().unfinished).toBe(0);
});
