import { parentPort, workerData } from 'node:worker_threads';
import { assert } from '../../src/core/assert.ts';
import { asReadonceError, type SerializedError } from '../../src/core/errors.ts';
import { openEnvironment } from '../environment.ts';
import { putBatch, type PieceBatch, type PutResult } from '../put-batch.ts';

/** What a thread is started with. */
export interface WriterThreadData {
  readonly folder: string;
  readonly maxBytes: number | undefined;
}

/** What it says: that it has started, then of each batch in turn what has become of it. */
export type WriterThreadMessage = 'ready' | PutResult | { readonly error: SerializedError };

/** Entry of a thread that stores batches for the thread that started it, and waits for the disk. */
function serve({ folder, maxBytes }: WriterThreadData): void {
  const port = parentPort;
  assert(port !== null, 'expected to be a thread');
  const env = openEnvironment(folder);
  const say = (message: WriterThreadMessage, memory: readonly ArrayBuffer[] = []): void =>
    port.postMessage(message, memory);
  port.on('message', (message: PieceBatch | 'close') => {
    if (message === 'close') {
      void env.close().then(() => port.close());
      return;
    }
    try {
      const result = putBatch({ env, maxBytes }, message);
      say(result, [result.memory]);
    } catch (error) {
      say({ error: asReadonceError(error).toJSON() });
    }
  });
  say('ready');
}

serve(workerData as WriterThreadData);
