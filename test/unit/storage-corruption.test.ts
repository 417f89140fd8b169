import { expect, it } from 'vitest';
import { ReadonceError } from '../../src/core/errors.ts';
import type { ContextStore } from '../../storage/context-store.ts';
import { tableNames, type Environment } from '../../storage/environment.ts';
import { entries, openStore, openTables, storeFolder } from '../support/storage-harness.ts';
import { readWhole, sampleContext, type Sample } from '../support/storage-samples.ts';

const checkedTables = ['segments', 'rankings', 'tokens', 'catalogue', 'usage'] as const;
const everything = { tenant: '', limit: 100, cursor: undefined, label: undefined };

async function storedSample(): Promise<{ store: ContextStore; env: Environment; sample: Sample }> {
  const folder = storeFolder();
  const store = await openStore({ folder });
  const sample = sampleContext({ seed: 1, kvHeads: 1, rowBytes: 4, kept: [3, 0] });
  await store.write(sample);
  return { store, env: openTables(folder), sample };
}

function codeOf(action: () => unknown): string {
  try {
    action();
    return 'read';
  } catch (error) {
    if (error instanceof ReadonceError) return error.code;
    throw error;
  }
}

it('detects that any value is missing', async () => {
  const { store, env, sample } = await storedSample();
  for (const { table, key, value } of entries(env, checkedTables)) {
    env.transact(() => env.tables[table].removeSync(key));
    const expected = table === 'catalogue' ? 'not_found' : 'corrupt_record';
    expect(
      codeOf(() => readWhole(store, sample)),
      table,
    ).toBe(expected);
    env.transact(() => env.tables[table].putSync(key, value));
  }
});

it('detects a value that is in the place of another', async () => {
  const { store, env, sample } = await storedSample();
  const segments = entries(env, ['segments']);
  const [first, second] = segments;
  expect(segments.length).toBe(2);
  env.transact(() => env.tables.segments.putSync(first?.key as Buffer, second?.value as Buffer));
  expect(codeOf(() => [...store.readPairs(sample.record.id, 0)])).toBe('corrupt_record');
});

it('says what failed and where', async () => {
  const { store, env, sample } = await storedSample();
  const [entry] = entries(env, ['segments']);
  const damaged = Buffer.from(entry?.value as Buffer);
  damaged[damaged.byteLength - 1] = (damaged.at(-1) ?? 0) ^ 1;
  env.transact(() => env.tables.segments.putSync(entry?.key as Buffer, damaged));
  expect(() => [...store.readPairs(sample.record.id, 0)]).toThrow(
    expect.objectContaining({
      details: {
        id: sample.record.id,
        kind: 'pairs',
        layer: 0,
        head: 0,
        firstRank: 0,
        generation: 1,
        reason: 'damaged content',
      },
    }),
  );
});

it('leaves a corrupt context out of lists and tells so', async () => {
  const folder = storeFolder();
  const warnings: string[] = [];
  const log = { info: () => undefined, warn: (_: unknown, text: string) => warnings.push(text) };
  const store = await openStore({ folder, log });
  const [good, bad] = [sampleContext({ seed: 1 }), sampleContext({ seed: 2 })];
  await store.write(good);
  await store.write(bad);
  const env = openTables(folder);
  const entry = entries(env, ['catalogue']).at(-1);
  env.transact(() => env.tables.catalogue.putSync(entry?.key as Buffer, Buffer.alloc(80)));
  expect(codeOf(() => store.get(bad.record.id))).toBe('corrupt_record');
  const { contexts } = store.list(everything);
  expect(contexts.map(({ record }) => record.id)).toEqual([good.record.id]);
  expect(warnings).toHaveLength(1);
});

it('deletes, and writes anew, a context whose catalogue record is corrupt', async () => {
  const { store, env, sample } = await storedSample();
  const damage = (): void => {
    const [entry] = entries(env, ['catalogue']);
    env.transact(() => env.tables.catalogue.putSync(entry?.key as Buffer, Buffer.alloc(80)));
  };
  damage();
  await store.write(sample);
  expect(codeOf(() => readWhole(store, sample))).toBe('read');
  damage();
  expect(await store.delete(sample.record.id)).toBe(true);
  expect(await store.purgeQuarantine()).toBe(1);
  await store.sweep();
  expect(
    entries(
      env,
      tableNames.filter((name) => name !== 'store'),
    ),
  ).toEqual([]);
});
