import type { Worker } from 'node:worker_threads';
import { ReadonceError } from '../../src/core/errors.ts';
import type { HeadRange, HeadRows } from '../context-store.ts';
import { jobNumbers, type ReaderThreadData, type ReadJob } from './job.ts';
import { slotMemory, SlotTaker } from './slots.ts';
import { startWorker } from './start-worker.ts';

/** How long no thread may publish anything while one is expected to. */
const stallMs = 60_000;

interface Thread {
  readonly worker: Worker;
  readonly slots: SlotTaker;
  readonly ended: Promise<unknown>;
}

/** How threads are started. */
export interface ReaderThreadsOptions {
  /** Of the store. */
  readonly folder: string;
  readonly count: number;
  /** Hears why a thread ended that should not have: the others are not asked any more either. */
  readonly onError?: (error: unknown) => void;
}

/**
 * Threads that read a context together: one alone copies and checks less than a disk's cache, a
 * bus or a fast disk gives. Reading is synchronous all the same: the caller's thread takes what
 * they read.
 */
export class ReaderThreads {
  readonly #published = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
  readonly #threads: readonly Thread[];
  #ready = 0;
  #isBroken = false;

  /** Starts the threads; they are ready some time after. They keep no process alive. */
  constructor(options: ReaderThreadsOptions) {
    this.#threads = Array.from({ length: options.count }, () => this.#start(options));
  }

  /** Whether they can read by now. */
  get isReady(): boolean {
    return this.#ready > 0 && this.#ready === this.#threads.length && !this.#isBroken;
  }

  /**
   * Reads ranges of a context's heads, in any order but for the rows of one range.
   * @param onRows gets some of the rows, which it uses up before it returns; what it throws ends
   * the reading
   * @throws ReadonceError `not_found`, `corrupt_record`; `internal` if a thread is stuck
   */
  read(id: string, ranges: readonly HeadRange[], onRows: (rows: HeadRows) => void): void {
    const shared = new SharedArrayBuffer(jobNumbers.count * Int32Array.BYTES_PER_ELEMENT);
    const numbers = new Int32Array(shared);
    const job: ReadJob = { id, ranges, shared };
    for (const { worker } of this.#threads) worker.postMessage(job);
    const running = new Set(this.#threads);
    let failure: { readonly error: unknown } | undefined;
    const fail = (error: unknown): void => {
      failure ??= { error };
      Atomics.store(numbers, jobNumbers.isCancelled, 1);
    };
    while (running.size > 0) {
      const published = Atomics.load(this.#published, 0);
      let isIdle = true;
      for (const thread of running) {
        const filled = thread.slots.peek();
        if (filled === undefined) continue;
        isIdle = false;
        if (filled.kind !== 'rows') running.delete(thread);
        try {
          if (filled.kind === 'failed') throw ReadonceError.fromJSON(filled.error);
          if (filled.kind === 'rows' && failure === undefined) onRows(filled.rows);
        } catch (error) {
          fail(error);
        }
        thread.slots.take();
      }
      if (isIdle) this.#wait(published);
    }
    if (failure !== undefined) throw failure.error;
  }

  async close(): Promise<void> {
    for (const { worker } of this.#threads) {
      worker.ref();
      worker.postMessage('close');
    }
    await Promise.all(this.#threads.map(({ ended }) => ended));
  }

  #wait(published: number): void {
    if (Atomics.wait(this.#published, 0, published, stallMs) !== 'timed-out') return;
    this.#isBroken = true;
    throw new ReadonceError(
      'internal',
      `Expected the threads that read the context store to go on but they did not in ${stallMs} ms`,
    );
  }

  #start({ folder, onError }: ReaderThreadsOptions): Thread {
    const memory = slotMemory(this.#published.buffer);
    const data: ReaderThreadData = { folder, memory };
    const worker = startWorker('reader-thread', data);
    worker.once('message', () => this.#ready++);
    worker.once('error', (error) => {
      this.#isBroken = true;
      onError?.(error);
    });
    const ended = new Promise((resolve) => worker.once('exit', resolve));
    worker.unref();
    return { worker, slots: new SlotTaker(memory), ended };
  }
}
