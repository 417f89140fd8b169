import { expect, test } from 'vitest';
import { openEnvironment } from '../../storage/environment.ts';
import { idBytes } from '../../storage/keys.ts';
import { openContextStore } from '../../storage/open-store.ts';
import { openStore, storeFolder } from '../support/storage-harness.ts';
import { sampleContext, sampleId } from '../support/storage-samples.ts';

test('the secret is made once, and every opening and every copy of the store has it', async () => {
  const store = await openStore();
  const second = await openContextStore({ folder: store.folder });
  const secret = store.secret();
  expect(secret.byteLength).toBe(32);
  expect(new Set(secret).size).toBeGreaterThan(1);
  expect(second.secret()).toEqual(secret);
  const folder = storeFolder();
  await store.compactTo(folder);
  const copy = await openContextStore({ folder });
  expect(copy.secret()).toEqual(secret);
  expect((await openStore()).secret()).not.toEqual(secret);
  await copy.close();
  await second.close();
});

test("a context is in its tenant's list only, also when its record is corrupt", async () => {
  const store = await openStore();
  await store.write(sampleContext({ seed: 1, tenant: 'a' }));
  await store.write(sampleContext({ seed: 2, tenant: 'b' }));
  const listed = () => ['a', 'b', ''].map((tenant) => store.isListed({ tenant, id: sampleId(1) }));
  expect(listed()).toEqual([true, false, false]);
  const env = openEnvironment(store.folder);
  env.transact(() => {
    const { catalogue } = env.tables;
    const record = Buffer.from(catalogue.get(idBytes(sampleId(1))) ?? []);
    record.writeUInt8(record.readUInt8(70) ^ 1, 70);
    catalogue.putSync(idBytes(sampleId(1)), record);
  });
  await env.close();
  expect(() => store.get(sampleId(1))).toThrow(/intact/);
  expect(listed()).toEqual([true, false, false]);
  expect(store.isListed({ tenant: 'a', id: 'nonsense' })).toBe(false);
  await store.delete(sampleId(2));
  expect(store.isListed({ tenant: 'b', id: sampleId(2) })).toBe(false);
});
