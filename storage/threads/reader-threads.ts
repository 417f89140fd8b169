import type { Worker } from 'node:worker_threads';
import type { HeadRange, RowReading } from '../context-store.ts';
import type { ReaderThreadData } from './job.ts';
import { slotMemory, SlotTaker } from './slots.ts';
import { startWorker } from './start-worker.ts';
import { discard, ThreadReading, type ThreadEnd, type ThreadGroup } from './thread-reading.ts';

/** How long no thread may publish anything while one is expected to. */
const stallMs = 60_000;

interface Thread extends ThreadEnd {
  readonly worker: Worker;
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
 * Threads that read contexts together: one alone copies and checks less than a disk's cache, a bus
 * or a fast disk gives. They read ahead until their slots are full, while the caller's thread does
 * other things and takes what is there from time to time. Each reads one context after another, in
 * the order that they were asked for.
 */
export class ReaderThreads {
  readonly #published = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
  readonly #onError: ReaderThreadsOptions['onError'];
  readonly #threads: readonly Thread[];
  readonly #group: ThreadGroup;
  #started = 0;
  #isBroken = false;
  #isClosing = false;
  #isDraining = false;

  /** Starts the threads; they are ready some time after. They keep no process alive. */
  constructor(options: ReaderThreadsOptions) {
    this.#onError = options.onError;
    this.#group = this.#createGroup();
    this.#threads = Array.from({ length: options.count }, () => this.#start(options));
  }

  /** Whether they can read by now. */
  get isReady(): boolean {
    const isUsable = !this.#isBroken && !this.#isClosing;
    return isUsable && this.#started > 0 && this.#started === this.#threads.length;
  }

  /** Whether they read nothing, so that a context is begun at once. */
  get isIdle(): boolean {
    return this.#threads.every(({ readings }) => readings.length === 0);
  }

  /** Begins to read ranges of a context's heads. */
  read(id: string, ranges: readonly HeadRange[]): RowReading {
    const reading = new ThreadReading(this.#group, this.#threads, { id, ranges });
    for (const { worker } of this.#threads) worker.postMessage(reading.job);
    return reading;
  }

  /** Ends what is being read, and the threads. */
  async close(): Promise<void> {
    this.#isClosing = true;
    for (const { worker, readings } of this.#threads) {
      for (const reading of readings.slice()) reading.close();
      worker.ref();
      worker.postMessage('close');
    }
    await Promise.all(this.#threads.map(({ ended }) => ended));
  }

  #createGroup(): ThreadGroup {
    const isBroken = (): boolean => this.#isBroken;
    const published = (): number => Atomics.load(this.#published, 0);
    return {
      get isBroken() {
        return isBroken();
      },
      get published() {
        return published();
      },
      publishedSince: (count) => this.#publishedSince(count),
      changed: () => this.#wake(),
      drain: () => void this.#drain(),
    };
  }

  #wake(): void {
    Atomics.add(this.#published, 0, 1);
    Atomics.notify(this.#published, 0);
  }

  async #publishedSince(count: number): Promise<void> {
    const waiting = Atomics.waitAsync(this.#published, 0, count);
    if (!waiting.async) return;
    // Neither the threads nor the waiting keep the process alive: this does, for who waits. A
    // timeout of the waiting itself would stay in memory when it is over.
    const watch = setInterval(() => this.#giveUpIfStuck(), stallMs);
    await waiting.value;
    clearInterval(watch);
  }

  #giveUpIfStuck(): void {
    // Threads whose slots are full wait for their taker.
    if (this.#threads.some(({ slots }) => slots.peek() !== undefined)) return;
    if (!this.#isBroken) this.#onError?.(new Error(`Threads were stuck for ${stallMs} ms`));
    this.#isBroken = true;
    this.#wake();
  }

  /** Threads that wait for a free slot hold a snapshot of the store: nobody else may come by. */
  async #drain(): Promise<void> {
    if (this.#isDraining) return;
    this.#isDraining = true;
    for (;;) {
      const { published } = this.#group;
      for (const thread of this.#threads) discard(thread);
      if (!this.#threads.some(({ readings }) => readings.some(({ isClosed }) => isClosed))) break;
      await this.#publishedSince(published);
    }
    this.#isDraining = false;
  }

  #start({ folder, onError }: ReaderThreadsOptions): Thread {
    const memory = slotMemory(this.#published.buffer);
    const data: ReaderThreadData = { folder, memory };
    const worker = startWorker('reader-thread', data);
    const readings: ThreadReading[] = [];
    worker.once('message', () => this.#started++);
    worker.once('error', (error) => {
      this.#isBroken = true;
      onError?.(error);
    });
    const ended = new Promise<void>((resolve) => {
      worker.once('exit', () => {
        if (!this.#isClosing) this.#isBroken = true;
        for (const reading of readings.slice()) reading.lostBy(thread);
        this.#wake();
        resolve();
      });
    });
    worker.unref();
    const thread = { worker, slots: new SlotTaker(memory), readings, ended };
    return thread;
  }
}
