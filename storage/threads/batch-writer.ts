import type { Worker } from 'node:worker_threads';
import { ReadonceError } from '../../src/core/errors.ts';
import type { Environment } from '../environment.ts';
import { putBatch, type PieceBatch, type PutResult } from '../piece-batch.ts';
import { startWorker } from './start-worker.ts';
import type { WriterThreadData, WriterThreadMessage } from './writer-thread.ts';

/** What a writer stores to. */
export interface BatchWriterOptions {
  readonly env: Environment;
  /** Quota of the store, bytes. */
  readonly maxBytes: number | undefined;
  /** Hears why the thread ended that should not have. */
  readonly onError?: (error: unknown) => void;
}

interface Waiting {
  readonly resolve: (result: PutResult) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Stores batches in a thread of its own, started by the first of them: whoever hands them over does
 * not wait for the disk. Where no thread can be had, the caller's stores them.
 */
export class BatchWriter {
  readonly #options: BatchWriterOptions;
  /** Batches that were handed over, in order. */
  readonly #waiting: Waiting[] = [];
  #worker: Promise<Worker> | undefined;
  #ended: Promise<void> = Promise.resolve();
  #isBroken = false;

  constructor(options: BatchWriterOptions) {
    this.#options = options;
  }

  /**
   * Stores a batch, after those before it. It is on disk when the promise resolves.
   * @param batch its memory is handed over; the result gives it back
   * @throws ReadonceError as `putBatch`; `internal` if the thread ends
   */
  async put(batch: PieceBatch): Promise<PutResult> {
    const worker = this.#isBroken ? undefined : await (this.#worker ??= this.#start());
    if (worker === undefined || this.#isBroken) return putBatch(this.#options, batch);
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      worker.ref();
      worker.postMessage(batch, [batch.memory]);
    });
  }

  /** Waits for what was handed over; idempotent. */
  async close(): Promise<void> {
    const worker = await this.#worker;
    worker?.ref();
    worker?.postMessage('close');
    await this.#ended;
  }

  /** Resolves when the thread can store, or has ended. */
  #start(): Promise<Worker> {
    const { env, maxBytes } = this.#options;
    const data: WriterThreadData = { folder: env.folder, maxBytes };
    const worker = startWorker('writer-thread', data);
    worker.once('error', (error) => {
      this.#isBroken = true;
      this.#options.onError?.(error);
    });
    this.#ended = new Promise((resolve) => {
      worker.once('exit', () => {
        this.#isBroken = true;
        for (const { reject } of this.#waiting.splice(0)) reject(ended());
        resolve();
      });
    });
    const ready = new Promise<void>((resolve) => {
      worker.on('message', (message: WriterThreadMessage) => {
        if (message === 'ready') resolve();
        else this.#answer(message);
        if (this.#waiting.length === 0) worker.unref();
      });
    });
    return Promise.race([ready, this.#ended]).then(() => worker);
  }

  #answer(message: Exclude<WriterThreadMessage, 'ready'>): void {
    const first = this.#waiting.shift();
    if ('error' in message) first?.reject(ReadonceError.fromJSON(message.error));
    else first?.resolve(message);
  }
}

function ended(): ReadonceError {
  return new ReadonceError(
    'internal',
    'Expected the thread that writes to the context store to go on but it ended; try again',
  );
}
