import { parentPort, workerData } from 'node:worker_threads';
import { assert } from '../../src/core/assert.ts';
import { asReadonceError } from '../../src/core/errors.ts';
import type { HeadRange } from '../context-store.ts';
import { openEnvironment, type Environment } from '../environment.ts';
import { readPairs } from '../reader.ts';
import { jobNumbers, type ReaderThreadData, type ReadJob } from './job.ts';
import { SlotFiller } from './slots.ts';

/** Entry of a thread that reads, and verifies, parts of contexts for the thread that started it. */

/** Reads one range after another, as long as there are some that no thread has begun. */
function read(env: Environment, filler: SlotFiller, { id, ranges, shared }: ReadJob): void {
  const numbers = new Int32Array(shared);
  const isCancelled = (): boolean => Atomics.load(numbers, jobNumbers.isCancelled) !== 0;
  while (!isCancelled()) {
    const range = ranges[Atomics.add(numbers, jobNumbers.next, 1)];
    if (range === undefined) return;
    readRange(env, filler, { id, range, isCancelled });
  }
}

function readRange(
  env: Environment,
  filler: SlotFiller,
  job: {
    readonly id: string;
    readonly range: HeadRange;
    readonly isCancelled: () => boolean;
  },
): void {
  const { id, range } = job;
  const { head } = range;
  let inSlot = 0;
  let row = range.from;
  for (const { rows, keys, values } of readPairs(env, { id, head, range }, () => undefined)) {
    if (job.isCancelled()) break;
    const rowBytes = keys.byteLength / rows;
    const most = SlotFiller.roomFor(rowBytes);
    for (let done = 0; done < rows;) {
      const count = Math.min(rows - done, most - inSlot);
      const [start, end] = [done * rowBytes, (done + count) * rowBytes];
      filler.add(
        { head, firstRow: row },
        { rows: count, keys: keys.subarray(start, end), values: values.subarray(start, end) },
      );
      done += count;
      row += count;
      inSlot += count;
      if (inSlot < most && SlotFiller.canJoin(rowBytes)) continue;
      filler.publishRows();
      inSlot = 0;
    }
  }
  filler.publishRows();
}

function serve({ folder, memory }: ReaderThreadData): void {
  const port = parentPort;
  assert(port !== null, 'expected to be a thread');
  const env = openEnvironment(folder);
  const filler = new SlotFiller(memory);
  port.on('message', (message: ReadJob | 'close') => {
    if (message === 'close') {
      void env.close().then(() => port.close());
      return;
    }
    try {
      read(env, filler, message);
      filler.publishDone();
    } catch (error) {
      filler.publishError(asReadonceError(error).toJSON());
    }
  });
  port.postMessage('ready');
}

serve(workerData as ReaderThreadData);
