import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { defined } from '../../src/core/assert.ts';
import {
  countHeadsInChild,
  entryCounts,
  killHard,
  noEntries,
  openStore,
  openTables,
  storeFolder,
  writeInChild,
} from '../support/storage-harness.ts';
import {
  expectedContent,
  largeSample,
  readWhole,
  sampleContext,
} from '../support/storage-samples.ts';
import { blockFor, waitForFile } from '../support/wait-for-file.ts';

describe('a writer that is killed', () => {
  for (const [stage, thread] of [
    ['segments', 'writer'],
    ['rankings', 'caller'],
  ] as const) {
    it(`while its ${thread} thread stores ${stage} leaves nothing that can be seen, and all is swept`, async () => {
      const folder = storeFolder();
      const other = sampleContext({ seed: 2 });
      const store = await openStore({ folder });
      await store.write(other);
      const before = entryCounts(openTables(folder));

      await killHard(await writeInChild(folder, 1, stage, thread));
      expect(entryCounts(openTables(folder))['segments']).toBeGreaterThan(before['segments'] ?? 0);
      expect(store.get(largeSample(1).record.id)).toBeUndefined();
      expect(await store.sweep()).toBe(1);
      expect(entryCounts(openTables(folder))).toEqual(before);
      expect(readWhole(store, other)).toMatchObject(expectedContent(other));
    });
  }

  it('does not stand in the way of the next write of the same context', async () => {
    const folder = storeFolder();
    await killHard(await writeInChild(folder, 1, 'segments'));
    const store = await openStore({ folder });
    const sample = largeSample(1);
    await store.write(sample);
    expect(readWhole(store, sample)).toMatchObject(expectedContent(sample));
    await store.delete(sample.record.id);
    expect(entryCounts(openTables(folder))).toEqual(noEntries);
  });
});

describe('a process that exits while a thread stores for it', () => {
  it('waits for that: it ends, and others can write', { timeout: 60_000 }, async () => {
    const folder = storeFolder();
    const child = await writeInChild(folder, 1, 'exit', 'writer');
    const gone = once(child, 'exit');
    // While the lock is held the child's thread waits for it, and the child exits.
    openTables(folder).transact(() => {
      writeFileSync(join(folder, 'go'), '');
      waitForFile(join(folder, 'exits'));
      blockFor(100);
    });
    expect((await gone)[0]).toBe(3);
    const store = await openStore({ folder });
    expect(await store.sweep()).toBe(1);
    expect(entryCounts(openTables(folder))).toEqual(noEntries);
  });

  it('is kept alive by a store that closes before the thread has started', async () => {
    const store = new URL('../../storage/open-store.ts', import.meta.url).href;
    const samples = new URL('../support/storage-samples.ts', import.meta.url).href;
    const script = `
      import { openContextStore } from ${JSON.stringify(store)};
      import { sampleContext } from ${JSON.stringify(samples)};
      const [folder] = process.argv.slice(1);
      const store = await openContextStore({ folder, writerThreadFromBytes: 0 });
      await store.write(sampleContext({ seed: 1 }));
      await store.close();
      process.exitCode = 4;`;
    const args = ['--import', 'tsx', '--input-type=module', '-e', script, storeFolder()];
    const child = spawn(process.execPath, args, { stdio: 'inherit' });
    // 13: what the program awaits never comes.
    expect((await once(child, 'exit'))[0]).toBe(4);
  });
});

describe('two processes on one folder', () => {
  it('see what the other wrote and deleted at once', async () => {
    const folder = storeFolder();
    const store = await openStore({ folder });
    const sample = largeSample(1);
    expect(store.get(sample.record.id)).toBeUndefined();
    const child = await writeInChild(folder, 1, 'none');
    // No turn of the event loop lies between the child's word and this look.
    expect(readWhole(store, sample)).toMatchObject(expectedContent(sample));
    expect(await store.delete(sample.record.id)).toBe(true);
    const gone = once(child, 'exit');
    defined(child.stdin, 'the input of the child').end();
    expect((await gone)[0]).toBe(0);
  });

  it('store a context once when both write it at the same time', async () => {
    const folder = storeFolder();
    const sample = largeSample(1);
    const store = await openStore({ folder });
    const asked = await Promise.all([countHeadsInChild(folder, 1), countHeadsInChild(folder, 1)]);
    expect(asked.sort()).toEqual([0, sample.record.pairCounts.length]);
    expect(readWhole(store, sample)).toMatchObject(expectedContent(sample));
    expect(entryCounts(openTables(folder))).toMatchObject({ catalogue: 1, unfinished: 0 });
  });

  it("leave each other's unfinished work alone, and wait for it", async () => {
    const folder = storeFolder();
    const child = await writeInChild(folder, 1, 'rankings');
    const store = await openStore({ folder });
    expect(await store.sweep()).toBe(0);
    const sample = largeSample(1);
    const soon = AbortSignal.timeout(200);
    await expect(store.write(sample, soon)).rejects.toMatchObject({ name: 'AbortError' });
    expect(entryCounts(openTables(folder))['segments']).toBeGreaterThan(0);

    const write = store.write(sample);
    await killHard(child);
    await write;
    expect(readWhole(store, sample)).toMatchObject(expectedContent(sample));
  });
});
