import type { Worker } from 'node:worker_threads';
import { ReadonceError } from '../../src/core/errors.ts';
import type { Environment } from '../environment.ts';
import { putBatch, type PieceBatch, type PutResult } from '../put-batch.ts';
import { startWorker } from './start-worker.ts';
import type { WriterThreadData, WriterThreadMessage } from './writer-thread.ts';

/** What a writer stores to. */
export interface BatchWriterOptions {
  readonly env: Environment;
  /** Quota of the store, bytes. */
  readonly maxBytes: number | undefined;
  /** Bytes of a write from which on it starts the thread. */
  readonly fromBytes: number;
  /** Hears why the thread ended that should not have. */
  readonly onError?: (error: unknown) => void;
}

interface Waiting {
  readonly resolve: (result: PutResult) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Stores batches in a thread of its own, started by the first large write: whoever hands them over
 * does not wait for the disk. Until it has started, where none can be had and when it has ended,
 * the caller's stores them.
 */
export class BatchWriter {
  readonly #options: BatchWriterOptions;
  /** Batches that were handed over, in order. */
  readonly #waiting: Waiting[] = [];
  #worker: Worker | undefined;
  #ended: Promise<void> = Promise.resolve();
  #isReady = false;
  #hasEnded = false;
  #isClosing = false;

  constructor(options: BatchWriterOptions) {
    this.#options = options;
  }

  /** Whether the thread stores batches by now. */
  get isReady(): boolean {
    return this.#isReady;
  }

  /** Whether the thread stores a write of so many bytes, or will as soon as it has started. */
  takes(writeBytes: number): boolean {
    return this.#isReady || (writeBytes >= this.#options.fromBytes && !this.#hasEnded);
  }

  /**
   * Stores a batch, after those before it. It is on disk when the promise resolves.
   * @param batch its memory is handed over; the result gives it back
   * @param writeBytes of the write that it is a part of
   * @throws ReadonceError as `putBatch`; `internal` if the thread ends
   */
  async put(batch: PieceBatch, writeBytes: number): Promise<PutResult> {
    if (writeBytes >= this.#options.fromBytes && !this.#isClosing) this.#worker ??= this.#start();
    const worker = this.#worker;
    if (worker === undefined || !this.#isReady) return putBatch(this.#options, batch);
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      worker.ref();
      worker.postMessage(batch, [batch.memory]);
    });
  }

  /** Waits for what was handed over; idempotent. */
  async close(): Promise<void> {
    this.#isClosing = true;
    this.#worker?.ref();
    this.#worker?.postMessage('close');
    await this.#ended;
  }

  #start(): Worker {
    const { env, maxBytes, onError } = this.#options;
    const data: WriterThreadData = { folder: env.folder, maxBytes };
    const worker = startWorker('writer-thread', data);
    worker.unref();
    let failure: unknown;
    worker.once('error', (error) => {
      this.#isReady = false;
      failure = error;
    });
    worker.on('message', (message: WriterThreadMessage) => {
      if (message === 'ready') this.#isReady = true;
      else this.#answer(message);
      // While it is waited for at the end it keeps the process alive.
      if (this.#waiting.length === 0 && !this.#isClosing) worker.unref();
    });
    this.#ended = new Promise((resolve) => {
      worker.once('exit', () => {
        [this.#isReady, this.#hasEnded] = [false, true];
        if (!this.#isClosing || failure !== undefined) onError?.(failure ?? ended());
        for (const { reject } of this.#waiting.splice(0)) reject(ended(failure));
        resolve();
      });
    });
    return worker;
  }

  #answer(message: Exclude<WriterThreadMessage, 'ready'>): void {
    const first = this.#waiting.shift();
    if ('error' in message) first?.reject(ReadonceError.fromJSON(message.error));
    else first?.resolve(message);
  }
}

function ended(cause?: unknown): ReadonceError {
  return new ReadonceError(
    'internal',
    'Expected the thread that writes to the context store to go on but it ended; try again',
    { cause },
  );
}
