/**
 * A process that writes one large context: `FOLDER SEED STAGE`. At the stage it says "stalled" and
 * stands still until it is killed; at stage "none" it says how many heads it was asked for, and
 * ends with its input.
 */
import { once } from 'node:events';
import type { StallStage } from './storage-harness.ts';
import { openContextStore } from '../../storage/open-store.ts';
import { largeSample } from './storage-samples.ts';

const [folder = '', seed = '1', stage = 'none'] = process.argv.slice(2);

function stallAt(here: StallStage): void {
  if (stage !== here) return;
  process.stdout.write('stalled\n');
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
}

const sample = largeSample(Number(seed));
let heads = 0;
const store = await openContextStore({ folder });
await store.write({
  ...sample,
  pairs: (head) => {
    heads++;
    if (head === 2) stallAt('segments');
    return sample.pairs(head);
  },
  ranking: (head) => {
    stallAt('rankings');
    return sample.ranking(head);
  },
});
process.stdout.write(`written ${heads}\n`);
await once(process.stdin.resume(), 'end');
await store.close();
