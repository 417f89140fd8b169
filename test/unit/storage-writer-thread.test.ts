import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { beforeEach, expect, it, vi } from 'vitest';
import { defined } from '../../src/core/assert.ts';
import type { StoreOptions } from '../../storage/open-store.ts';
import {
  entryCounts,
  noEntries,
  openStore,
  openTables,
  storeFolder,
} from '../support/storage-harness.ts';
import {
  expectedContent,
  largeSample as makeLargeSample,
  readWhole,
  sampleContext,
  type Sample,
} from '../support/storage-samples.ts';

/** The threads that the stores of a test started, in order. */
let threads: Worker[] = [];

/** Not 0: the threads end by an exception when a batch comes. */
const failing = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));

vi.mock('../../storage/threads/start-worker.ts', () => ({
  startWorker: (name: string, data: object) => {
    const entry = new URL(`../../storage/threads/${name}.ts`, import.meta.url).href;
    const script = `
      const { parentPort, workerData } = require('node:worker_threads');
      parentPort.addEventListener('message', (event) => {
        if (workerData.failing[0] === 0) return;
        event.stopImmediatePropagation();
        throw new Error('on purpose');
      });
      import('tsx/esm/api').then(({ register }) => {
        register();
        return import(${JSON.stringify(entry)});
      });`;
    const worker = new Worker(script, { eval: true, workerData: { ...data, failing } });
    threads.push(worker);
    return worker;
  },
}));

beforeEach(() => {
  threads = [];
  failing.fill(0);
});

/** A store whose thread has started; nothing is in it. */
async function openWithThread(options: Partial<StoreOptions> = {}) {
  const store = await openStore({ ...options, writerThreadFromBytes: 0 });
  const first = sampleContext({ seed: 99 });
  await store.write(first);
  await once(defined(threads.at(-1), 'the thread of the store'), 'message');
  await store.delete(first.record.id);
  return store;
}

const noise = makeLargeSample(0);
const pairs = noise.record.pairCounts.map((_, head) => noise.pairs(head));

/** A context of several batches; making it costs nothing. */
function largeSample(seed: number): Sample {
  return { ...makeLargeSample(seed), pairs: (head) => defined(pairs[head], 'a head') };
}

/** Calls `action` before the pairs of the last head, when a batch is with the thread. */
function midway(sample: Sample, action: () => void): Sample {
  return {
    ...sample,
    pairs: (head) => {
      if (head === 2) action();
      return sample.pairs(head);
    },
  };
}

function expectWhole(store: Parameters<typeof readWhole>[0], sample: Sample): void {
  expect(readWhole(store, sample)).toMatchObject(expectedContent(sample));
}

it('a thread that ends fails the write; nothing of it stays, and the next needs no thread', async () => {
  const warn = vi.fn();
  const folder = storeFolder();
  const store = await openWithThread({ folder, log: { info: vi.fn(), warn } });
  const sample = largeSample(1);
  const write = store.write(midway(sample, () => failing.fill(1)));
  await expect(write).rejects.toMatchObject({
    code: 'internal',
    message: expect.stringContaining('thread that writes') as unknown,
    cause: { message: 'on purpose' },
  });
  expect(warn).toHaveBeenCalledExactlyOnceWith(
    { err: expect.objectContaining({ message: 'on purpose' }) as unknown },
    'writes contexts without a thread',
  );
  expect(store.get(sample.record.id)).toBeUndefined();
  expect(entryCounts(openTables(folder))).toEqual(noEntries);
  await store.write(sample);
  expectWhole(store, sample);
  expect(threads).toHaveLength(1);
});

it('a write that is aborted while a batch is with the thread leaves nothing', async () => {
  const folder = storeFolder();
  const store = await openWithThread({ folder });
  const sample = largeSample(1);
  const abort = new AbortController();
  const write = store.write(
    midway(sample, () => abort.abort(new Error('not wanted'))),
    abort.signal,
  );
  await expect(write).rejects.toThrow('not wanted');
  expect(entryCounts(openTables(folder))).toEqual(noEntries);
  // Its batches come from the same thread, in order behind those of the write before.
  await store.write(sample);
  expectWhole(store, sample);
});

it('a store that is closed stops its writes, those that wait too, and undoes them', async () => {
  const folder = storeFolder();
  const store = await openWithThread({ folder });
  const sample = largeSample(1);
  let closed = Promise.resolve();
  const write = store.write(
    midway(sample, () => {
      closed = store.close();
    }),
  );
  const waiting = store.write(sample);
  const refusal = { code: 'engine_unavailable' };
  const [ended, gaveUp] = await Promise.allSettled([write, waiting]);
  expect(ended).toMatchObject({ reason: refusal });
  expect(gaveUp).toMatchObject({ reason: refusal });
  await closed;
  await expect(store.write(sample)).rejects.toMatchObject(refusal);
  expect(entryCounts(openTables(folder))).toEqual(noEntries);
});

it('two stores of one process write one folder, each by its own thread', async () => {
  const folder = storeFolder();
  const [one, other] = [await openWithThread({ folder }), await openWithThread({ folder })];
  const both = [largeSample(1), largeSample(2)] as const;
  const [first, second] = both;
  await Promise.all([one.write(first), other.write(second), one.write(second)]);
  for (const sample of both) expectWhole(other, sample);
  await one.close();
  for (const { record } of both) await other.delete(record.id);
  expect(entryCounts(openTables(folder))).toEqual(noEntries);
});

it('takes the same pages with a thread as without, keeps the quota, and gives all back', async () => {
  const plain = await openStore();
  await plain.write(largeSample(1));
  const [oneBytes, maxBytes] = [plain.stats().usedBytes, 70_000_000];
  const store = await openWithThread({ maxBytes });
  const emptyBytes = store.stats().usedBytes;
  await store.write(largeSample(1));
  expect(Math.abs(store.stats().usedBytes - oneBytes)).toBeLessThan(slackBytes);
  for (const seed of [2, 3]) await store.write(largeSample(seed));
  expect(store.stats()).toMatchObject({ contexts: 2, unfinished: 0 });
  expect(store.stats().usedBytes).toBeLessThanOrEqual(maxBytes);
  for (const seed of [2, 3]) await store.delete(largeSample(seed).record.id);
  expect(Math.abs(store.stats().usedBytes - emptyBytes)).toBeLessThan(slackBytes);
});

/** Trees are not the same shape after other writes: a few pages of 4096 bytes. */
const slackBytes = 16 * 4096;
