import { beforeEach, describe, expect, it } from 'vitest';
import type { HeadRows } from '../../storage/context-store.ts';
import { jobNumbers } from '../../storage/threads/job.ts';
import { SlotFiller, slotMemory, SlotTaker } from '../../storage/threads/slots.ts';
import {
  ThreadReading,
  type ThreadEnd,
  type ThreadGroup,
} from '../../storage/threads/thread-reading.ts';

/** The end of a thread that fills slots, here in the thread of the test. */
class FakeThread implements ThreadEnd {
  readonly readings: ThreadReading[] = [];
  readonly slots: SlotTaker;
  readonly #filler: SlotFiller;

  constructor() {
    const memory = slotMemory(new SharedArrayBuffer(4));
    this.slots = new SlotTaker(memory);
    this.#filler = new SlotFiller(memory);
  }

  rows(firstRow: number): void {
    const side = Uint8Array.of(firstRow);
    this.#filler.add({ head: 0, firstRow }, { rows: 1, keys: side, values: side });
    this.#filler.publishRows();
  }

  done(): void {
    this.#filler.publishDone();
  }
}

let threads: readonly [FakeThread, FakeThread];
let group: ThreadGroup & { isBroken: boolean; drained: number; wake: () => void };

beforeEach(() => {
  threads = [new FakeThread(), new FakeThread()];
  group = {
    isBroken: false,
    published: 0,
    drained: 0,
    wake: () => undefined,
    publishedSince: () => new Promise((resolve) => (group.wake = resolve)),
    changed: () => group.wake(),
    drain: () => void group.drained++,
  };
});

const read = (): ThreadReading => new ThreadReading(group, threads, { id: 'ctx', ranges: [] });

/** The first rows of what a reading hands over, at most `most` of them. */
function take(reading: ThreadReading, most = Infinity) {
  const rows: number[] = [];
  const isDone = reading.take(({ firstRow }: HeadRows) => rows.push(firstRow) < most);
  return { rows, isDone };
}

describe('a reading of threads', () => {
  it('hands over what is there, no more than is wanted, until all threads are done', () => {
    const reading = read();
    expect(take(reading)).toEqual({ rows: [], isDone: false });
    for (const row of [1, 2, 3]) threads[0].rows(row);
    threads[1].rows(4);
    expect(take(reading, 1)).toEqual({ rows: [1], isDone: false });
    threads[0].done();
    expect(take(reading)).toEqual({ rows: [2, 4, 3], isDone: false });
    threads[1].done();
    expect(take(reading)).toEqual({ rows: [], isDone: true });
  });

  it('gets none of the rows of those before it', async () => {
    const [first, second] = [read(), read()];
    const [thread, other] = threads;
    thread.rows(1);
    thread.done();
    thread.rows(2);
    thread.done();
    let isReady = false;
    const ready = second.ready().then(() => (isReady = true));
    expect(take(second).rows).toEqual([]);
    await Promise.resolve();
    expect(isReady).toBe(false);
    expect(take(first).rows).toEqual([1]);
    // The thread publishes nothing more, but its next rows are of the second reading now.
    await ready;
    expect(take(second)).toEqual({ rows: [2], isDone: false });
    for (let i = 0; i < 2; i++) other.done();
    expect([take(first).isDone, take(second).isDone]).toEqual([true, true]);
  });

  it('gets past those before it that were closed', () => {
    const [first, second] = [read(), read()];
    const [thread] = threads;
    for (const row of [1, 2]) thread.rows(row);
    thread.done();
    thread.rows(3);
    for (const reading of [first, first]) reading.close();
    expect(group.drained).toBe(1);
    expect(Atomics.load(new Int32Array(first.job.shared), jobNumbers.isCancelled)).toBe(1);
    expect(take(second).rows).toEqual([3]);
  });

  it('gives the slot back of rows that could not be used', () => {
    const reading = read();
    for (const row of [1, 2]) threads[0].rows(row);
    const fail = (): never => {
      throw new Error('No room.');
    };
    expect(() => reading.take(fail)).toThrow('No room.');
    expect(take(reading).rows).toEqual([2]);
  });

  it('never ends as if it were whole when a thread has died or all are stuck', async () => {
    const [lost, stuck] = [read(), read()];
    for (const thread of threads) lost.lostBy(thread);
    await lost.ready();
    const internal = expect.objectContaining({ code: 'internal' }) as unknown;
    expect(() => take(lost)).toThrow(internal);
    group.isBroken = true;
    await stuck.ready();
    expect(() => take(stuck)).toThrow(internal);
  });
});
