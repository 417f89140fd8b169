import { setImmediate } from 'node:timers/promises';
import type { Closeable } from '../core/closeable.ts';
import { ReadonceError } from '../core/errors.ts';

/** What wants the device. Each kind has a queue of its own. */
export type TurnKind = 'step' | 'extend' | 'ingest';

interface Turn {
  readonly work: () => void;
  readonly refuse: (error: unknown) => void;
}

const order: readonly TurnKind[] = ['step', 'extend', 'ingest'];

/**
 * Who computes next: the scheduling policy of an engine, whole. The device does one bounded piece
 * of work at a time; waiting kinds take turns in the order above, first come first served within a
 * kind. So a decode step of all running answers comes between any two slices of an ingestion, and a
 * long document stalls answers by at most one slice and one query's extension.
 */
export class DeviceTurns implements Closeable {
  readonly #queues: Readonly<Record<TurnKind, Turn[]>> = { step: [], extend: [], ingest: [] };
  #last = order.length - 1;
  #running = false;
  #closed = false;

  /**
   * Runs `work` (synchronous, one bounded piece) when its turn comes.
   * @throws the signal's reason if it is aborted by then; `engine_unavailable` after `close`
   */
  run<T>(kind: TurnKind, work: () => T, signal?: AbortSignal): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#closed) {
        reject(closing());
        return;
      }
      this.#queues[kind].push({
        work: () => {
          try {
            signal?.throwIfAborted();
            resolve(work());
          } catch (error) {
            reject(error);
          }
        },
        refuse: reject,
      });
      if (!this.#running) void this.#loop();
    });
  }

  async #loop(): Promise<void> {
    this.#running = true;
    // Lets messages in between two pieces of work: calls of the runtime block the event loop.
    for (await setImmediate(); ; await setImmediate()) {
      const turn = this.#next();
      if (turn === undefined) break;
      turn.work();
    }
    this.#running = false;
  }

  #next(): Turn | undefined {
    for (let i = 1; i <= order.length; i++) {
      const index = (this.#last + i) % order.length;
      const turn = this.#queues[order[index] as TurnKind].shift();
      if (turn !== undefined) {
        this.#last = index;
        return turn;
      }
    }
    return undefined;
  }

  /** Refuses what waits; the piece that runs ends. */
  close(): void {
    this.#closed = true;
    for (const queue of Object.values(this.#queues)) {
      for (const turn of queue.splice(0)) turn.refuse(closing());
    }
  }
}

function closing(): ReadonceError {
  return new ReadonceError('engine_unavailable', 'The engine is shutting down', {
    retryAfterSeconds: 1,
  });
}
