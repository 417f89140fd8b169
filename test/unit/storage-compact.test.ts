import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { compactStore } from '../../storage/compact.ts';
import type { ContextStore } from '../../storage/context-store.ts';
import { killHard, openStore, storeFolder, writeInChild } from '../support/storage-harness.ts';
import { expectedContent, readWhole, sampleContext } from '../support/storage-samples.ts';

/** 4 MB. */
const large = sampleContext({ seed: 1, layers: 1, kvHeads: 2, rowBytes: 256, kept: [4000] });
const small = sampleContext({ seed: 2 });

/** A store with a small context, in a file that a large one has left. */
async function sparseStore(): Promise<{ readonly folder: string; readonly store: ContextStore }> {
  const folder = storeFolder();
  const store = await openStore({ folder });
  await store.write(large);
  await store.write(small);
  await store.delete(large.record.id);
  return { folder, store };
}

function isWhole(store: ContextStore): void {
  expect(readWhole(store, small)).toMatchObject(expectedContent(small));
}

function fileDigest(folder: string): string {
  return createHash('sha256')
    .update(readFileSync(join(folder, 'data.mdb')))
    .digest('hex');
}

it('to another folder makes a small store of the same contexts', async () => {
  const { store } = await sparseStore();
  const copy = join(storeFolder(), 'copy');
  expect(store.stats().fragmentation).toBeGreaterThan(10);
  await store.compactTo(copy);
  const copied = await openStore({ folder: copy });
  isWhole(copied);
  expect(copied.stats().fragmentation).toBeLessThan(1.5);
  expect(copied.stats().contexts).toBe(1);
});

it('to another folder refuses one that has a store', async () => {
  const { folder, store } = await sparseStore();
  await expect(store.compactTo(folder)).rejects.toMatchObject({ code: 'conflict' });
  isWhole(store);
});

it('in place replaces the file, and leaves nothing else', async () => {
  const { folder, store } = await sparseStore();
  await store.close();
  // What an interrupted compaction leaves.
  mkdirSync(join(folder, 'compaction', 'target'), { recursive: true });
  const { bytesBefore, bytesAfter } = await compactStore(folder);
  expect(bytesBefore).toBeGreaterThan(10 * bytesAfter);
  expect(statSync(join(folder, 'data.mdb')).size).toBe(bytesAfter);
  expect(readdirSync(folder).sort()).toEqual(['data.mdb', 'lock.mdb']);

  const after = await openStore({ folder });
  isWhole(after);
  await after.write(large);
  expect(readWhole(after, large)).toMatchObject(expectedContent(large));
});

it('in place leaves nothing for long if it is interrupted: the sweep removes it', async () => {
  const { folder, store } = await sparseStore();
  // The old file under another name, and half a copy: as large as the store, or larger.
  for (const name of ['source', 'target']) {
    mkdirSync(join(folder, 'compaction', name), { recursive: true });
    writeFileSync(join(folder, 'compaction', name, 'data.mdb'), Buffer.alloc(10_000));
  }
  await store.sweep();
  expect(readdirSync(folder).sort()).toEqual(['data.mdb', 'lock.mdb']);
  isWhole(store);
});

it('in place refuses while this process has the store open', async () => {
  const { folder, store } = await sparseStore();
  await expect(compactStore(folder)).rejects.toMatchObject({ code: 'conflict' });
  isWhole(store);
});

it('in place refuses while another process has the store open, and changes nothing', async () => {
  const { folder, store } = await sparseStore();
  await store.close();
  const child = await writeInChild(folder, 3, 'none');
  const before = fileDigest(folder);
  await expect(compactStore(folder)).rejects.toMatchObject({ code: 'conflict' });
  expect(fileDigest(folder)).toBe(before);
  await killHard(child);
  await compactStore(folder);
  isWhole(await openStore({ folder }));
});

it('in place makes no store where there is none', async () => {
  const folder = storeFolder();
  await expect(compactStore(folder)).rejects.toMatchObject({ code: 'not_found' });
  expect(existsSync(join(folder, 'data.mdb'))).toBe(false);
});
