/**
 * A process that imports a file for which its disk has no room, and one for which it has: `FOLDER`.
 * Prints what happened as JSON.
 */
import { readdirSync } from 'node:fs';
import { isDeepStrictEqual } from 'node:util';
import { ReadonceError } from '../../src/core/errors.ts';
import { openContextStore } from '../../storage/open-store.ts';
import { importContext } from '../../storage/portable/import.ts';
import { forgeFile, inParts, portableSample, targetFor } from './portable-samples.ts';
import { expectedContent, readWhole, type Sample } from './storage-samples.ts';

/** The error's code, or that it is stored whole. */
async function outcome(sample: Sample): Promise<string> {
  try {
    await importContext(inParts(forgeFile(sample), 65_536), targetFor(store, sample));
    const { tokens, heads, rankings } = readWhole(store, sample);
    const whole = isDeepStrictEqual({ tokens, heads, rankings }, expectedContent(sample));
    return whole ? 'whole' : 'damaged';
  } catch (error) {
    if (!(error instanceof ReadonceError)) throw error;
    return error.code;
  }
}

const [folder = ''] = process.argv.slice(2);
const store = await openContextStore({ folder });
await store.sweep();
// About 14 MB and 2 MB.
const shape = { kvHeads: 2, rowBytes: 512, kept: [900] };
const large = await outcome(portableSample({ seed: 1, layers: 8, ...shape }));
const small = await outcome(portableSample({ seed: 2, layers: 1, ...shape }));
const { contexts, unfinished } = store.stats();
const files = readdirSync(folder).toSorted();
await store.close();
process.stdout.write(`${JSON.stringify({ large, small, contexts, unfinished, files })}\n`);
