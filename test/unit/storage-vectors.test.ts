import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { formatVersion } from '../../src/core/identity.ts';
import { tableNames, type TableName } from '../../storage/environment.ts';
import {
  entries,
  fixedClock,
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

/*
 * What version 2 of the format is, byte for byte: a store of two contexts, one of them quarantined.
 * Should a test fail, the format has changed: it needs another version, and vectors of its own.
 */

interface Vectors {
  readonly version: number;
  readonly entries: readonly (readonly [table: TableName, key: string, value: string])[];
}

const vectors = JSON.parse(
  readFileSync(new URL('../fixtures/storage/version-2.json', import.meta.url), 'utf8'),
) as Vectors;

const live = sampleContext({
  seed: 1,
  kvHeads: 1,
  rowBytes: 8,
  kept: [3, 0],
  usage: { expiresAtMs: 1_800_000_000_000, labels: { source: 'handbook' } },
});
const quarantined = sampleContext({ seed: 2, layers: 1, kvHeads: 1, rowBytes: 8, kept: [1] });
const fault = { reason: 'damaged content (kind pairs, layer 0, head 0, firstRank 0)' };

function contentOf(folder: string): Vectors['entries'] {
  return entries(openTables(folder), tableNames).map(({ table, key, value }) => [
    table,
    key.toString('hex'),
    value.toString('hex'),
  ]);
}

it('is written as it always was', async () => {
  const folder = storeFolder();
  const store = await openStore({ folder, clock: fixedClock(1_700_000_000_000) });
  for (const sample of [live, quarantined]) await store.write(sample);
  store.quarantine(quarantined.record.id, fault);
  expect(formatVersion).toBe(vectors.version);
  expect(contentOf(folder)).toEqual(vectors.entries);
});

it('is read as it always was', async () => {
  const folder = storeFolder();
  const env = openTables(folder);
  env.transact(() => {
    for (const [table, key, value] of vectors.entries) {
      env.tables[table].putSync(Buffer.from(key, 'hex'), Buffer.from(value, 'hex'));
    }
  });
  const store = await openStore({ folder });
  const isLive = (sample: Sample): void => {
    expect(readWhole(store, sample)).toMatchObject({
      stored: { record: sample.record, usage: sample.usage },
      ...expectedContent(sample),
    });
  };
  isLive(live);
  expect(await store.sweep()).toBe(0);
  isLive(live);
  expect(contentOf(folder)).toEqual(vectors.entries);
  expect(store.listQuarantined()).toMatchObject([{ id: quarantined.record.id, ...fault }]);
});
