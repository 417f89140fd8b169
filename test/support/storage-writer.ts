/**
 * A process that writes one large context: `FOLDER SEED STAGE`. At the stage it says "stalled" and
 * stands still until it is killed (a thread goes on with what it has); at stage "none" it says how
 * many heads it was asked for, and ends with its input. At stage "exit" it says "stalled" when most
 * is stored, goes on when there is a file `go` in the folder, hands over the next batch, makes a
 * file `exits`, and exits with status 3.
 */
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { StallStage } from './storage-harness.ts';
import { openContextStore } from '../../storage/open-store.ts';
import { waitForFile } from './wait-for-file.ts';
import { largeSample } from './storage-samples.ts';

const [folder = '', seed = '1', stage = 'none'] = process.argv.slice(2);

function stallAt(here: StallStage): void {
  if (stage !== here) return;
  process.stdout.write('stalled\n');
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
}

function exitWhenTold(): void {
  process.stdout.write('stalled\n');
  waitForFile(join(folder, 'go'));
}

function exitNow(): void {
  writeFileSync(join(folder, 'exits'), '');
  process.exit(3);
}

const sample = largeSample(Number(seed));
let heads = 0;
const store = await openContextStore({ folder });
await store.write({
  ...sample,
  pairs: (head) => {
    heads++;
    if (head === 2) stallAt('segments');
    if (head === 2 && stage === 'exit') exitWhenTold();
    return sample.pairs(head);
  },
  ranking: (head) => {
    if (stage === 'exit') exitNow();
    stallAt('rankings');
    return sample.ranking(head);
  },
});
process.stdout.write(`written ${heads}\n`);
await once(process.stdin.resume(), 'end');
await store.close();
