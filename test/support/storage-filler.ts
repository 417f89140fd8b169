/**
 * A process that fills a store until its disk is full, and goes on when room returns: `FOLDER`.
 * Prints what happened as JSON.
 */
import { ReadonceError } from '../../src/core/errors.ts';
import { openContextStore } from '../../storage/open-store.ts';
import { expectedContent, readWhole, sampleContext, type Sample } from './storage-samples.ts';
import { isDeepStrictEqual } from 'node:util';

/** About 1 MB. */
function megabyte(seed: number): Sample {
  return sampleContext({ seed, layers: 1, kvHeads: 2, rowBytes: 128, kept: [2000] });
}

function isWhole(seed: number): boolean {
  const { tokens, heads, rankings } = readWhole(store, megabyte(seed));
  return isDeepStrictEqual({ tokens, heads, rankings }, expectedContent(megabyte(seed)));
}

/** Writes contexts until there is no room, 30 at most. */
async function fill(): Promise<{ readonly written: number; readonly code: string }> {
  for (let seed = 1; seed <= 30; seed++) {
    try {
      await store.write(megabyte(seed));
    } catch (error) {
      if (!(error instanceof ReadonceError)) throw error;
      return { written: seed - 1, code: error.code };
    }
  }
  return { written: 30, code: 'none' };
}

const [folder = ''] = process.argv.slice(2);
const store = await openContextStore({ folder });
await store.sweep();
const { written, code } = await fill();
const seeds = Array.from({ length: written }, (_, i) => i + 1);
const intact = seeds.filter(isWhole).length;
const failed = megabyte(written + 1);
const visible = store.get(failed.record.id) !== undefined;

for (const seed of [1, 2]) await store.delete(megabyte(seed).record.id);
await store.write(failed);
const goesOn = isWhole(written + 1);
const stats = store.stats();
await store.close();
process.stdout.write(
  `${JSON.stringify({ written, code, intact, visible, goesOn, unfinished: stats.unfinished })}\n`,
);
