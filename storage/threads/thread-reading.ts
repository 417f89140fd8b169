import { assert } from '../../src/core/assert.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import type { HeadRange, HeadRows, RowReading } from '../context-store.ts';
import { jobNumbers, type ReadJob } from './job.ts';
import type { Filled, SlotTaker } from './slots.ts';

/** A thread that reads, as those see it who take from it. */
export interface ThreadEnd {
  readonly slots: SlotTaker;
  /** What it was asked to read and is not done with, in order: a slot's rows are of the first. */
  readonly readings: ThreadReading[];
}

/** What readings know of the threads together. */
export interface ThreadGroup {
  readonly isBroken: boolean;
  /** How often something was published, by threads or `changed`. */
  readonly published: number;
  /** Settles when that is not `published` any more, or threads are stuck. */
  publishedSince(published: number): Promise<void>;
  /** Wakes who waits: another reading has come first in a thread. */
  changed(): void;
  /** Uses up what threads still publish of cancelled readings. */
  drain(): void;
}

/** Rows that some threads read together, while they are taken. */
export class ThreadReading implements RowReading {
  readonly job: ReadJob;
  readonly #group: ThreadGroup;
  readonly #running: Set<ThreadEnd>;
  readonly #numbers: Int32Array;
  #isClosed = false;
  #isLost = false;

  constructor(
    group: ThreadGroup,
    threads: readonly ThreadEnd[],
    { id, ranges }: { readonly id: string; readonly ranges: readonly HeadRange[] },
  ) {
    const shared = new SharedArrayBuffer(jobNumbers.count * Int32Array.BYTES_PER_ELEMENT);
    this.job = { id, ranges, shared };
    this.#numbers = new Int32Array(shared);
    this.#group = group;
    this.#running = new Set(threads);
    for (const { readings } of threads) readings.push(this);
  }

  /** Whether nobody takes its rows any more. */
  get isClosed(): boolean {
    return this.#isClosed;
  }

  take(onRows: (rows: HeadRows) => boolean): boolean {
    assert(!this.#isClosed, 'expected a reading that is open');
    for (let isIdle = false; !isIdle;) {
      isIdle = true;
      for (const thread of this.#running) {
        const filled = this.#next(thread);
        if (filled === undefined) continue;
        isIdle = false;
        if (!this.#use(thread, filled, onRows)) return false;
      }
    }
    const isDone = this.#running.size === 0;
    if (this.#isLost || (!isDone && this.#group.isBroken)) throw broken();
    return isDone;
  }

  async ready(): Promise<void> {
    for (;;) {
      const { published } = this.#group;
      if (this.#isClosed || this.#group.isBroken || this.#running.size === 0) return;
      for (const thread of this.#running) if (this.#next(thread) !== undefined) return;
      await this.#group.publishedSince(published);
    }
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    Atomics.store(this.#numbers, jobNumbers.isCancelled, 1);
    this.#group.changed();
    if (this.#running.size > 0) this.#group.drain();
  }

  /** Hears that a thread has died before its part was done. */
  lostBy(thread: ThreadEnd): void {
    this.#isLost = true;
    this.doneBy(thread);
  }

  /** Hears that a thread has done its part. */
  doneBy(thread: ThreadEnd): void {
    thread.readings.splice(thread.readings.indexOf(this), 1);
    this.#running.delete(thread);
    this.#group.changed();
  }

  #next(thread: ThreadEnd): Filled | undefined {
    discard(thread);
    return thread.readings[0] === this ? thread.slots.peek() : undefined;
  }

  #use(thread: ThreadEnd, filled: Filled, onRows: (rows: HeadRows) => boolean): boolean {
    if (filled.kind !== 'rows') {
      thread.slots.take();
      this.doneBy(thread);
      if (filled.kind === 'failed') throw ReadonceError.fromJSON(filled.error);
      return true;
    }
    try {
      return onRows(filled.rows);
    } finally {
      thread.slots.take();
    }
  }
}

/** Takes from a thread what nobody wants any more. */
export function discard(thread: ThreadEnd): void {
  for (;;) {
    const [first] = thread.readings;
    if (first?.isClosed !== true) return;
    const filled = thread.slots.peek();
    if (filled === undefined) return;
    thread.slots.take();
    if (filled.kind !== 'rows') first.doneBy(thread);
  }
}

function broken(): ReadonceError {
  return new ReadonceError(
    'internal',
    'Expected the threads that read the context store to go on but one died or is stuck: ask ' +
      'again, without them',
  );
}
