import { expect, it } from 'vitest';
import type { ContextStore, VerifiedContext } from '../../storage/context-store.ts';
import type { TableName } from '../../storage/environment.ts';
import { openStore, openTables, storeFolder } from '../support/storage-harness.ts';
import {
  expectedContent,
  readWhole,
  sampleContext,
  type Sample,
} from '../support/storage-samples.ts';

const [sound, bad] = [sampleContext({ seed: 1 }), sampleContext({ seed: 2 })];

async function verified(
  store: ContextStore,
  options?: { readonly quarantine: boolean },
): Promise<readonly VerifiedContext[]> {
  const found: VerifiedContext[] = [];
  for await (const context of store.verify(options)) found.push(context);
  return found;
}

/** A store of a sound context and one whose last value in a table has a bit flipped. */
async function damagedStore(table: TableName): Promise<ContextStore> {
  const folder = storeFolder();
  const store = await openStore({ folder });
  for (const sample of [sound, bad]) await store.write(sample);
  const env = openTables(folder);
  env.transact(() => {
    const [entry] = env.tables[table].getRange({ reverse: true, limit: 1 });
    const value = Buffer.from(entry?.value ?? []);
    value[value.byteLength - 1] = (value.at(-1) ?? 0) ^ 1;
    env.tables[table].putSync(Buffer.from(entry?.key ?? []), value);
  });
  return store;
}

function isWhole(store: ContextStore, sample: Sample): void {
  expect(readWhole(store, sample)).toMatchObject(expectedContent(sample));
}

it('finds nothing in a sound store', async () => {
  const store = await openStore();
  for (const sample of [sound, bad]) await store.write(sample);
  expect(await verified(store)).toEqual([
    { id: sound.record.id, fault: undefined },
    { id: bad.record.id, fault: undefined },
  ]);
});

it.each(['catalogue', 'usage', 'tokens', 'rankings', 'segments'] as const)(
  'finds a flipped bit in %s, and moves the context aside only when asked to',
  async (table) => {
    const store = await damagedStore(table);
    const [first, second] = await verified(store);
    expect(first).toEqual({ id: sound.record.id, fault: undefined });
    expect(second?.id).toBe(bad.record.id);
    expect(second?.fault?.reason).toMatch(/damaged content/);
    expect(store.listQuarantined()).toEqual([]);

    await verified(store, { quarantine: true });
    expect(store.listQuarantined()).toMatchObject([
      { id: bad.record.id, reason: second?.fault?.reason },
    ]);
    expect(await verified(store)).toEqual([{ id: sound.record.id, fault: undefined }]);
    isWhole(store, sound);
    await store.write(bad);
    isWhole(store, bad);
  },
);

it('finds a ranking that names what the document does not have', async () => {
  const store = await openStore();
  const ranking = () => ({
    positions: Uint32Array.of(0, 1, 2, 3, 7),
    scores: new Float32Array(5),
  });
  await store.write({ ...sampleContext({ seed: 3, kept: [5] }), ranking });
  const [found] = await verified(store);
  expect(found?.fault?.reason).toBe('a ranking of tokens that cannot be (head 0)');
});

it('does not mind contexts that go meanwhile', async () => {
  const store = await openStore();
  for (const sample of [sound, bad]) await store.write(sample);
  const verifying = store.verify();
  expect((await verifying.next()).value).toMatchObject({ id: sound.record.id });
  await store.delete(bad.record.id);
  expect(await verifying.next()).toEqual({ done: true, value: undefined });
});
