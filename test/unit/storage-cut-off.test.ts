import { copyFileSync, openSync, closeSync, readFileSync, statSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { isCutOff, pageBytes } from '../../storage/lmdb-pages.ts';
import { openContextStore } from '../../storage/open-store.ts';
import { openStore, openTables, storeFolder } from '../support/storage-harness.ts';
import { expectedContent, readWhole, sampleContext } from '../support/storage-samples.ts';

/** Enough small pieces for trees of several levels, and large values. */
const samples = [1, 2, 3].map((seed) =>
  sampleContext({ seed, layers: 4, kvHeads: 8, rowBytes: 64, kept: [300, 20, 0] }),
);

/** A store of the samples, closed, and its data file. */
async function closedStore(): Promise<{ readonly folder: string; readonly file: string }> {
  const folder = storeFolder();
  const store = await openContextStore({ folder });
  for (const sample of samples) await store.write(sample);
  await store.close();
  return { folder, file: join(folder, 'data.mdb') };
}

function cutOff(path: string): boolean {
  const file = openSync(path, 'r');
  try {
    return isCutOff(file);
  } finally {
    closeSync(file);
  }
}

it('a store whose file was cut off is refused, and as it was once it is whole again', async () => {
  const { folder, file } = await closedStore();
  const whole = join(folder, 'copy');
  copyFileSync(file, whole);
  const sizeBytes = statSync(file).size;
  expect(cutOff(file)).toBe(false);
  for (const leftBytes of [sizeBytes - 1, sizeBytes / 2, 3 * pageBytes, 2 * pageBytes, 5000]) {
    copyFileSync(whole, file);
    truncateSync(file, leftBytes);
    const before = readFileSync(file);
    await expect(openContextStore({ folder })).rejects.toMatchObject({ code: 'unsupported' });
    expect(readFileSync(file).equals(before)).toBe(true);
  }
  copyFileSync(whole, file);
  const store = await openStore({ folder });
  for (const sample of samples) {
    expect(readWhole(store, sample)).toMatchObject(expectedContent(sample));
  }
});

it('a file without the free pages at its end is whole', async () => {
  const { folder, file } = await closedStore();
  const sizeBytes = statSync(file).size;
  const env = openTables(folder);
  // Of a value written last, whose pages are free again, nothing is needed.
  const key = Buffer.alloc(24, 1);
  env.transact(() => env.tables.quarantine.putSync(key, Buffer.alloc(100 * pageBytes)));
  env.transact(() => env.tables.quarantine.removeSync(key));
  await env.close();
  expect(statSync(file).size).toBeGreaterThan(sizeBytes + 100 * pageBytes);
  expect(cutOff(file)).toBe(false);
  truncateSync(file, sizeBytes + 100 * pageBytes);
  expect([cutOff(file), statSync(file).size % pageBytes]).toEqual([false, 0]);
  truncateSync(file, sizeBytes / 2);
  expect(cutOff(file)).toBe(true);
});
