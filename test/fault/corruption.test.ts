import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ServerProcess } from '../../src/cli/server-process.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import { createRandom } from '../../src/core/random.ts';
import type { FrameKind } from '../../storage/frame.ts';
import { openContextStore } from '../../storage/open-store.ts';
import { createWorkspace, startServer } from '../e2e/support.ts';
import { findFrames, flipBit } from './damage.ts';
import { pick, recordPromises, type Promised } from './ledger.ts';
import { createRecipes } from './recipes.ts';
import { scanStore } from './store-scan.ts';

/*
 * Bits flipped in the data file of a server that is stopped. The file holds frames that nothing
 * refers to any more, too: to flip those must change nothing.
 */

const workspace = createWorkspace();
const random = createRandom(4);
const fewFlips = 3;
const allowed = new Set(['right', 'corrupt_record', 'not_found, quarantined']);
let server: ServerProcess;
let promises: readonly Promised[];

beforeAll(async () => {
  server = await startServer(workspace);
  promises = await recordPromises(server.client, createRecipes(6));
});
afterAll(async () => {
  await server.stop();
  workspace.remove();
});

/**
 * Stops the server, flips bits in records of this kind, starts it again. Of every other context all
 * frames are hit, those that are in use among them; of the others only a few.
 */
async function damage(kind: FrameKind): Promise<void> {
  await server.stop();
  const frames = findFrames(workspace.data).filter((frame) => frame.kind === kind);
  for (const [index, { id }] of promises.entries()) {
    const own = frames.filter((frame) => frame.id === id);
    const few = Array.from({ length: fewFlips }, () => pick(own, random));
    for (const frame of index % 2 === 0 ? own : few) flipBit(workspace.data, frame, random);
  }
  server = await startServer(workspace);
}

/**
 * Each question's outcome: `right`, or what came instead. A context that was found damaged is not
 * found any more.
 */
async function askAll({ id, expected }: Promised): Promise<readonly string[]> {
  const outcomes: string[] = [];
  for (const { request, answer } of expected) {
    try {
      const got = (await server.client.query(id, request)).answer;
      outcomes.push(got === answer ? 'right' : `wrong: ${got}`);
    } catch (error) {
      const code = error instanceof ReadonceError ? error.code : String(error);
      const isAside = code === 'not_found' && outcomes.includes('corrupt_record');
      outcomes.push(isAside ? `${code}, quarantined` : code);
    }
  }
  return outcomes;
}

describe('bits flipped on disk', () => {
  it.each<{ readonly kind: FrameKind; readonly refuses: boolean }>([
    { kind: 'pairs', refuses: true },
    { kind: 'ranking', refuses: true },
    // Token ids are compared when a document is put, not when it is asked.
    { kind: 'tokens', refuses: false },
    { kind: 'catalogue', refuses: true },
    { kind: 'usage', refuses: true },
  ])(
    'in $kind records give the right answer or corrupt_record, and a PUT rebuilds the context',
    { timeout: 200_000 },
    async ({ kind, refuses }) => {
      for (const { recipe } of promises) await server.client.put(recipe.put);
      await damage(kind);
      const outcomes: string[] = [];
      for (const promised of promises) outcomes.push(...(await askAll(promised)));
      expect(outcomes.filter((outcome) => !allowed.has(outcome))).toEqual([]);
      expect(outcomes.includes('corrupt_record')).toBe(refuses);

      for (const promised of promises) {
        const context = await server.client.put(promised.recipe.put);
        expect(context).toMatchObject({ id: promised.id, status: 'ready' });
        expect(await askAll(promised)).toEqual(promised.expected.map(() => 'right'));
      }
    },
  );

  it('leave nothing behind once all is deleted, and what was quarantined purged', async () => {
    for (const { id } of promises) await server.client.delete(id);
    await server.stop();
    const store = await openContextStore({ folder: workspace.data });
    expect(await store.purgeQuarantine()).toBeGreaterThan(0);
    await store.sweep();
    await store.close();
    const { contextBytes, orphans, unfinished } = await scanStore(workspace.data);
    expect({ contexts: contextBytes.size, orphans, unfinished }).toEqual({
      contexts: 0,
      orphans: [],
      unfinished: [],
    });
    server = await startServer(workspace);
  });
});
