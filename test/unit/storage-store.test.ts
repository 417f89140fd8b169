import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { open } from 'lmdb';
import { describe, expect, it } from 'vitest';
import { AssertionError } from '../../src/core/assert.ts';
import {
  entryCounts,
  noEntries,
  openStore,
  openTables,
  storeFolder,
} from '../support/storage-harness.ts';
import {
  expectedContent,
  largeSample,
  readWhole,
  sampleContext,
} from '../support/storage-samples.ts';

describe('a store', () => {
  it('keeps everything of a context over a restart', async () => {
    const folder = storeFolder();
    const sample = sampleContext({ seed: 1, usage: { labels: { source: 'handbook' } } });
    const first = await openStore({ folder });
    const written = await first.write(sample);
    await first.close();

    const second = await openStore({ folder });
    expect(written.record).toEqual(sample.record);
    expect(written.usage).toEqual(sample.usage);
    expect(readWhole(second, sample)).toEqual({ stored: written, ...expectedContent(sample) });
  });

  it('counts keys and values as stored, and everything as on disk', async () => {
    const folder = storeFolder();
    const store = await openStore({ folder });
    const stored = await store.write(sampleContext({ seed: 1 }));
    const pairs = stored.record.pairCounts.reduce((sum, count) => sum + count, 0);
    expect(stored.storedBytes).toBe(pairs * 2 * 16);

    const env = openTables(folder);
    const bytes = env.read((transaction) =>
      Object.entries(env.tables)
        .filter(([name]) => name !== 'store')
        .flatMap(([, table]) =>
          Array.from(table.getRange({ start: Buffer.from([0]), transaction })),
        )
        .reduce((sum, { key, value }) => sum + key.byteLength + value.byteLength, 0),
    );
    expect(stored.diskBytes).toBe(bytes);
  });

  it('keeps what is stored when the same id is written again', async () => {
    const store = await openStore();
    const sample = sampleContext({ seed: 1 });
    const first = await store.write(sample);
    const again = await store.write({ ...sample, usage: { ...sample.usage, pinned: true } });
    expect(again).toEqual(first);
  });

  it('stores once when two writes of one id run at the same time', async () => {
    const store = await openStore();
    const sample = largeSample(1);
    let heads = 0;
    const pairs = (head: number) => {
      heads++;
      return sample.pairs(head);
    };
    const [a, b] = await Promise.all([
      store.write({ ...sample, pairs }),
      store.write({ ...sample, pairs }),
    ]);
    expect(b).toEqual(a);
    expect(heads).toBe(sample.record.pairCounts.length);
  });

  it('shows nothing of a context before it is whole', async () => {
    const store = await openStore();
    const sample = sampleContext({ seed: 1 });
    const { id } = sample.record;
    await store.write({
      ...sample,
      timings: () => {
        expect(store.get(id)).toBeUndefined();
        expect(store.list(everything).contexts).toEqual([]);
        expect(() => store.tokenIds(id)).toThrow(expect.objectContaining({ code: 'not_found' }));
        return sample.timings();
      },
    });
    expect(store.get(id)).toBeDefined();
  });

  it('changes only what an update names, and nothing of an unknown context', async () => {
    const store = await openStore();
    const sample = sampleContext({ seed: 1 });
    const { id } = sample.record;
    await store.write(sample);
    const updated = await store.update(id, { pinned: true, labels: { a: 'b' } });
    expect(updated?.usage).toEqual({ ...sample.usage, pinned: true, labels: { a: 'b' } });
    expect(store.get(id)).toEqual(updated);
    expect(await store.update(sampleContext({ seed: 2 }).record.id, { pinned: true })).toBe(
      undefined,
    );
  });

  it('forgets a deleted context whole, and takes it again', async () => {
    const folder = storeFolder();
    const store = await openStore({ folder });
    const sample = sampleContext({ seed: 1 });
    const { id } = sample.record;
    const first = await store.write(sample);
    expect(await store.delete(id)).toBe(true);
    expect(await store.delete(id)).toBe(false);
    expect(store.get(id)).toBeUndefined();
    expect(() => [...store.readPairs(id, 0)]).toThrow(
      expect.objectContaining({ code: 'not_found' }),
    );
    expect(entryCounts(openTables(folder))).toEqual(noEntries);
    expect(await store.write(sample)).toEqual(first);
  });

  it('uses the bytes of deleted contexts again', async () => {
    const folder = storeFolder();
    const store = await openStore({ folder });
    const env = openTables(folder);
    await store.write(largeSample(1));
    const peak = env.usedBytes();
    for (let seed = 1; seed < 4; seed++) {
      await store.delete(largeSample(seed).record.id);
      await store.write(largeSample(seed + 1));
    }
    // LMDB's list of free pages takes some pages itself; a lost context would take 26 MB.
    expect(env.usedBytes()).toBeLessThan(peak + 1_000_000);
  });

  it('says that an id is unknown, whatever it looks like', async () => {
    const store = await openStore();
    expect(store.get('ctx_nonsense')).toBeUndefined();
    expect(await store.update('', { pinned: true })).toBeUndefined();
    expect(await store.delete('../../etc')).toBe(false);
    expect(() => store.readRanking('x', 0)).toThrow(expect.objectContaining({ code: 'not_found' }));
  });

  it('refuses a precision whose rows differ in size', async () => {
    const store = await openStore();
    const write = { ...sampleContext({ seed: 1 }), encodedBytes: (rows: number) => rows * 16 + 4 };
    await expect(store.write(write)).rejects.toThrow(AssertionError);
  });

  it('reads only the pieces that hold the rows asked for', async () => {
    const folder = storeFolder();
    const read: number[] = [];
    const store = await openStore({
      folder,
      pieceBytes: 64 + 10 * 32,
      onRead: (n) => read.push(n),
    });
    const sample = sampleContext({ seed: 1, layers: 1, kvHeads: 1, kept: [97] });
    await store.write(sample);
    const rowsOf = (from: number, to: number): number => {
      read.length = 0;
      for (const _piece of store.readPairs(sample.record.id, 0, { from, to }));
      return read.reduce((sum, bytes) => sum + bytes, 0) / 32;
    };
    expect([0, 1, 10, 11, 35, 100].map((to) => rowsOf(0, to))).toEqual([0, 10, 10, 20, 40, 100]);
    expect([0, 9, 10, 35, 99, 100].map((from) => rowsOf(from, 100))).toEqual([
      100, 100, 90, 70, 10, 0,
    ]);
  });

  it('closes twice without harm', async () => {
    const store = await openStore();
    await store.close();
    await store.close();
  });

  it('refuses a folder of another format version, and changes nothing in it', async () => {
    const folder = storeFolder();
    for (const version of [1, 3, 999]) {
      const newer = open({ path: folder, encoding: 'binary', overlappingSync: false });
      const table = newer.openDB({ name: 'store', encoding: 'binary', keyEncoding: 'binary' });
      const value = Buffer.alloc(2);
      value.writeUInt16LE(version);
      await table.put(Buffer.from('version'), value);
      await newer.close();
      const before = readFileSync(join(folder, 'data.mdb'));
      await expect(openStore({ folder })).rejects.toMatchObject({
        code: 'unsupported',
        details: { expected: 2, found: version },
      });
      expect(readFileSync(join(folder, 'data.mdb')).equals(before)).toBe(true);
    }
  });

  it('refuses a folder whose data file is something else', async () => {
    for (const bytes of [Buffer.alloc(100_000, 7), Buffer.alloc(8192), Buffer.from('text')]) {
      const folder = storeFolder();
      writeFileSync(join(folder, 'data.mdb'), bytes);
      await expect(openStore({ folder })).rejects.toMatchObject({ code: 'unsupported' });
      expect(readFileSync(join(folder, 'data.mdb')).equals(bytes)).toBe(true);
    }
  });

  it('notices when a piece is used after the store was read again', async () => {
    const store = await openStore();
    const sample = sampleContext({ seed: 1 });
    const { id } = sample.record;
    await store.write(sample);
    const misuse = (): void => {
      for (const _piece of store.readPairs(id, 0)) store.readRanking(id, 0);
    };
    expect(misuse).toThrow(AssertionError);
    expect(() => [...store.readPairs(id, 0, { from: 5, to: 3 })]).toThrow(AssertionError);
  });
});

describe('an aborted write', () => {
  it('leaves nothing behind', async () => {
    const folder = storeFolder();
    const store = await openStore({ folder });
    const sample = largeSample(1);
    const abort = new AbortController();
    const write = store.write(
      {
        ...sample,
        pairs: (head) => {
          if (head === 2) {
            // The first transaction is done, so there is something to clean up.
            expect(entryCounts(openTables(folder))['segments']).toBeGreaterThan(0);
            abort.abort();
          }
          return sample.pairs(head);
        },
      },
      abort.signal,
    );
    await expect(write).rejects.toMatchObject({ name: 'AbortError' });
    expect(entryCounts(openTables(folder))).toEqual(noEntries);
    expect((await store.write(sample)).record).toEqual(sample.record);
  });

  it('leaves nothing behind when the caller fails', async () => {
    const folder = storeFolder();
    const store = await openStore({ folder });
    const sample = sampleContext({ seed: 1 });
    const write = store.write({
      ...sample,
      ranking: () => {
        throw new Error('no ranking');
      },
    });
    await expect(write).rejects.toThrow('no ranking');
    expect(entryCounts(openTables(folder))).toEqual(noEntries);
  });
});

const everything = { tenant: '', limit: 100, cursor: undefined, label: undefined };
