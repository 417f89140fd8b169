import { expect, it } from 'vitest';
import type { ContextStore, ListOptions } from '../../storage/context-store.ts';
import { openStore } from '../support/storage-harness.ts';
import { sampleContext, sampleId, type SampleOptions } from '../support/storage-samples.ts';

const everything: ListOptions = { tenant: '', limit: 100, cursor: undefined, label: undefined };

async function storeWith(samples: readonly SampleOptions[]): Promise<ContextStore> {
  const store = await openStore();
  for (const sample of samples) await store.write(sampleContext(sample));
  return store;
}

function ids(store: ContextStore, options: Partial<ListOptions>): readonly string[] {
  return store.list({ ...everything, ...options }).contexts.map(({ record }) => record.id);
}

it('lists the newest context first, those of one moment by id', async () => {
  const store = await storeWith([
    { seed: 2, createdAtMs: 2000 },
    { seed: 9, createdAtMs: 1000 },
    { seed: 1, createdAtMs: 2000 },
    { seed: 5, createdAtMs: 3000 },
  ]);
  expect(ids(store, {})).toEqual([5, 1, 2, 9].map(sampleId));
});

it('goes through all contexts by cursor, each once, whatever comes and goes in between', async () => {
  const seeds = Array.from({ length: 7 }, (_, i) => i + 1);
  const store = await storeWith(seeds.map((seed) => ({ seed, createdAtMs: 1000 * seed })));
  const first = store.list({ ...everything, limit: 3 });
  expect(first.contexts.map(({ record }) => record.id)).toEqual([7, 6, 5].map(sampleId));
  expect(first.nextCursor).toMatch(/^[\w-]+$/);

  await store.delete(sampleId(5));
  await store.write(sampleContext({ seed: 8, createdAtMs: 8000 }));
  const second = store.list({ ...everything, limit: 4, cursor: first.nextCursor ?? undefined });
  expect(second.contexts.map(({ record }) => record.id)).toEqual([4, 3, 2, 1].map(sampleId));
  expect(second.nextCursor).toBeNull();
});

it('lists only contexts that carry a label', async () => {
  const store = await storeWith([
    { seed: 1, usage: { labels: { source: 'handbook', team: 'a' } } },
    { seed: 2, usage: { labels: { source: 'wiki' } } },
    { seed: 3, usage: { labels: { source: 'handbook' } } },
  ]);
  expect(ids(store, { label: { key: 'source', value: 'handbook' } })).toEqual([1, 3].map(sampleId));
  expect(ids(store, { label: { key: 'team', value: 'b' } })).toEqual([]);
  const page = store.list({ ...everything, limit: 1, label: { key: 'source', value: 'wiki' } });
  expect(page.nextCursor).toBeNull();
});

it("lists only a tenant's own contexts", async () => {
  const store = await storeWith([{ seed: 1, tenant: 'a' }, { seed: 2, tenant: 'b' }, { seed: 3 }]);
  expect(ids(store, { tenant: 'a' })).toEqual([sampleId(1)]);
  expect(ids(store, {})).toEqual([sampleId(3)]);
});

it('refuses a cursor that it did not make', async () => {
  const store = await storeWith([{ seed: 1 }]);
  for (const cursor of ['', 'x', 'AAAA', 'A'.repeat(200)]) {
    expect(() => store.list({ ...everything, cursor })).toThrow(
      expect.objectContaining({ code: 'invalid_argument' }),
    );
  }
});
