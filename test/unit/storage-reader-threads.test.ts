import { createHash } from 'node:crypto';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { ReadonceError } from '../../src/core/errors.ts';
import type { HeadRange, HeadRows, RowReading } from '../../storage/context-store.ts';
import { ReaderThreads } from '../../storage/threads/reader-threads.ts';
import { openStore, openTables, storeFolder } from '../support/storage-harness.ts';
import {
  expectedPairs,
  largeSample,
  sampleContext,
  sampleId,
  type Sample,
} from '../support/storage-samples.ts';

/** A stored context, and threads that can read it. */
async function stored(sample: Sample, { pieceBytes }: { readonly pieceBytes?: number } = {}) {
  const folder = storeFolder();
  const store = await openStore({ folder, ...(pieceBytes !== undefined && { pieceBytes }) });
  await store.write(sample);
  return { folder, threads: await started(folder, 3) };
}

async function started(folder: string, count: number): Promise<ReaderThreads> {
  const threads = new ReaderThreads({ folder, count });
  onTestFinished(() => threads.close());
  await vi.waitFor(() => expect(threads.isReady).toBe(true), { timeout: 60_000 });
  return threads;
}

function wholeHeads(sample: Sample): readonly HeadRange[] {
  return sample.record.pairCounts.map((to, head) => ({ head, from: 0, to }));
}

/** Takes rows until there are no more; waits for threads. */
async function takeAll(reading: RowReading, onRows: (rows: HeadRows) => void): Promise<void> {
  const take = (rows: HeadRows): boolean => {
    onRows(rows);
    return true;
  };
  try {
    while (!reading.take(take)) await reading.ready();
  } finally {
    reading.close();
  }
}

/** Gathers rows of heads, which must come in order within each head. */
class Collected {
  readonly #heads = new Map<number, Parameters<typeof digestsOf>[0]>();

  readonly add = ({ head, firstRow, rows, keys, values }: HeadRows): void => {
    const known = this.#heads.get(head);
    const collected = known ?? { from: firstRow, rows: 0, sides: [hash(), hash()] };
    this.#heads.set(head, collected);
    expect(firstRow).toBe(collected.from + collected.rows);
    collected.rows += rows;
    // Other threads may write to shared memory, so hashes take no views of it.
    collected.sides[0].update(Uint8Array.from(keys));
    collected.sides[1].update(Uint8Array.from(values));
  };

  of(head: number) {
    const collected = this.#heads.get(head);
    return collected && digestsOf(collected);
  }

  get heads(): readonly number[] {
    return [...this.#heads.keys()].toSorted((a, b) => a - b);
  }
}

const hash = () => createHash('sha256');

function digestsOf(collected: {
  readonly from: number;
  rows: number;
  readonly sides: readonly [ReturnType<typeof hash>, ReturnType<typeof hash>];
}) {
  const [keys, values] = collected.sides.map((side) => side.digest('hex'));
  return { rows: collected.rows, keys, values };
}

describe('reader threads', () => {
  it('give every row once, more of them than they have memory for', async () => {
    const sample = largeSample(1);
    const { threads } = await stored(sample);
    const collected = new Collected();
    await takeAll(threads.read(sample.record.id, wholeHeads(sample)), collected.add);
    for (const [head] of sample.record.pairCounts.entries()) {
      expect(collected.of(head)).toEqual(expectedPairs(sample, head));
    }
  });

  // Rows of 10 bytes do not lie at whole words, as those of `int8` do not.
  it.each([16, 10])('give the rows of ranges, of %i bytes a key', async (rowBytes) => {
    const sample = sampleContext({ seed: 2, layers: 4, kept: [40, 0, 17], rowBytes });
    const { threads } = await stored(sample, { pieceBytes: 64 + 7 * 2 * rowBytes });
    const ranges = [
      { head: 0, from: 3, to: 41 },
      { head: 3, from: 0, to: 1 },
      { head: 5, from: 8, to: 20 },
      { head: 6, from: 42, to: 43 },
    ];
    const collected = new Collected();
    await takeAll(threads.read(sample.record.id, ranges), collected.add);
    expect(collected.heads).toEqual([0, 3, 5, 6]);
    for (const range of ranges) {
      expect(collected.of(range.head)).toEqual(expectedPairs(sample, range.head, range));
    }
  });

  it('say what is damaged, and go on with what is sound', async () => {
    const sample = sampleContext({ seed: 3, kept: [40, 30] });
    const { folder, threads } = await stored(sample);
    const env = openTables(folder);
    const [damaged] = env.read((transaction) =>
      Array.from(env.tables.segments.getRange({ start: Buffer.from([0]), transaction }))
        .map(({ key, value }) => ({ key: Buffer.from(key), value: Buffer.from(value) }))
        .slice(2),
    );
    if (damaged === undefined) throw new Error('expected a third piece');
    damaged.value[100] = (damaged.value[100] as number) ^ 1;
    env.transact(() => env.tables.segments.putSync(damaged.key, damaged.value));

    const { id } = sample.record;
    const read = async (ranges: readonly HeadRange[]): Promise<Collected> => {
      const collected = new Collected();
      await takeAll(threads.read(id, ranges), collected.add);
      return collected;
    };
    const ranges = wholeHeads(sample);
    await expect(read(ranges)).rejects.toThrow(
      expect.objectContaining({
        code: 'corrupt_record',
        details: expect.objectContaining({ id, layer: 1, head: 0, reason: 'damaged content' }),
      }),
    );
    const sound = ranges.filter(({ head }) => head !== 2);
    expect((await read(sound)).of(3)).toEqual(expectedPairs(sample, 3));
  });

  it('refuse what is not stored', async () => {
    const { threads } = await stored(sampleContext({ seed: 4 }));
    const ranges = [{ head: 0, from: 0, to: 1 }];
    await expect(takeAll(threads.read(sampleId(5), ranges), () => undefined)).rejects.toThrow(
      expect.objectContaining({ code: 'not_found' }),
    );
  });

  it('stop when the taker fails, and can be asked again', async () => {
    const sample = largeSample(6);
    const { threads } = await stored(sample);
    const { id } = sample.record;
    let calls = 0;
    const failing = (): void => {
      calls++;
      throw new ReadonceError('out_of_memory', 'No room.');
    };
    await expect(takeAll(threads.read(id, wholeHeads(sample)), failing)).rejects.toThrow(
      'No room.',
    );
    expect(calls).toBe(1);
    const collected = new Collected();
    await takeAll(threads.read(id, wholeHeads(sample)), collected.add);
    expect(collected.of(2)).toEqual(expectedPairs(sample, 2));
  });

  it('read for several at once, go on when one of them leaves, and end while one waits', async () => {
    const sample = largeSample(8);
    const { threads } = await stored(sample);
    const read = () => threads.read(sample.record.id, wholeHeads(sample));
    const [first, left, last] = [read(), read(), read()];
    await first.ready();
    left.close();
    const collected = [new Collected(), new Collected()] as const;
    await Promise.all([takeAll(last, collected[1].add), takeAll(first, collected[0].add)]);
    for (const each of collected) expect(each.of(1)).toEqual(expectedPairs(sample, 1));
    // More than fits their memory: they wait for a taker.
    const waiting = read();
    await waiting.ready();
    await threads.close();
    await waiting.ready();
  });

  it('are not asked any more when one has died, and whoever waits is told', async () => {
    const { threads } = await stored(sampleContext({ seed: 9 }));
    // What it says of this does not fit its memory.
    const reading = threads.read('x'.repeat(8 * 1024 * 1024), [{ head: 0, from: 0, to: 1 }]);
    await expect(takeAll(reading, () => undefined)).rejects.toThrow(
      expect.objectContaining({ code: 'internal', message: expect.stringContaining('died') }),
    );
    expect(threads.isReady).toBe(false);
  });
});

describe('a store with reader threads', () => {
  it('reads the same rows as one without, and counts the same bytes', async () => {
    const folder = storeFolder();
    const sample = sampleContext({ seed: 7, layers: 6, kept: [4000, 2000] });
    const bytes = { alone: 0, together: 0 };
    const count = (by: keyof typeof bytes) => (read: number) => {
      bytes[by] += read;
    };
    const small = { folder, pieceBytes: 64 + 100 * 32 };
    const alone = await openStore({ ...small, onRead: count('alone') });
    await alone.write(sample);
    const together = await openStore({
      ...small,
      onRead: count('together'),
      readerThreads: 2,
    });
    const ranges = wholeHeads(sample);
    // Until the threads are there, the store reads alone: piece by piece.
    await vi.waitFor(
      async () => {
        let most = 0;
        const see = ({ rows }: HeadRows): void => void (most = Math.max(most, rows));
        await takeAll(together.readRows(sample.record.id, ranges), see);
        expect(most).toBeGreaterThan(100);
      },
      { timeout: 60_000 },
    );
    bytes.together = 0;
    const read = { alone: new Collected(), together: new Collected() };
    await takeAll(alone.readRows(sample.record.id, ranges), read.alone.add);
    await takeAll(together.readRows(sample.record.id, ranges), read.together.add);
    for (const [head] of sample.record.pairCounts.entries()) {
      const expected = expectedPairs(sample, head);
      expect(read.alone.of(head)).toEqual(expected);
      expect(read.together.of(head)).toEqual(expected);
    }
    expect(bytes.together).toBe(bytes.alone);
    // A context that somebody is slow to take keeps no other one waiting.
    const slow = together.readRows(sample.record.id, ranges);
    const other = new Collected();
    expect(
      together.readRows(sample.record.id, ranges).take((rows) => (other.add(rows), true)),
    ).toBe(true);
    expect(other.of(0)).toEqual(expectedPairs(sample, 0));
    slow.close();
  });
});
