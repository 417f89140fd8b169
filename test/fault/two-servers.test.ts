import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { defined } from '../../src/core/assert.ts';
import { createRandom } from '../../src/core/random.ts';
import {
  createFaultWorkspace,
  killNow,
  startVictim,
  untilGone,
  victimOf,
  type Victim,
} from './fault-server.ts';
import { listAll, recordPromises, type Promised } from './ledger.ts';
import { createRecipes } from './recipes.ts';
import { scanStore } from './store-scan.ts';

const workspace = createFaultWorkspace();
let first: Victim;
let second: Victim;
let promises: readonly Promised[];

beforeAll(async () => {
  [first, second] = await Promise.all([startVictim(workspace), startVictim(workspace)]);
  promises = await recordPromises(first.server.client, createRecipes(6));
});
afterAll(async () => {
  await Promise.all([first.server.stop(), second.server.stop()]);
  workspace.remove();
});

function promised(index: number): Promised {
  return defined(promises[index], `context ${index}`);
}

async function expectRight({ server }: Victim, { id, expected }: Promised): Promise<void> {
  for (const { request, answer } of expected) {
    expect((await server.client.query(id, request)).answer).toBe(answer);
  }
}

/** Generous: the servers start several times, and share two cores with other tests. */
describe('two servers on one folder', { timeout: 200_000 }, () => {
  it('that are given one document at once store one context and answer alike', async () => {
    for (const one of promises) {
      const contexts = await Promise.all(
        [first, second].map(({ server }) => server.client.put(one.recipe.put)),
      );
      expect(contexts.map(({ id, status }) => ({ id, status }))).toEqual([
        { id: one.id, status: 'ready' },
        { id: one.id, status: 'ready' },
      ]);
      await Promise.all([expectRight(first, one), expectRight(second, one)]);
    }
    const [listedByFirst, listedBySecond] = await Promise.all(
      [first, second].map(async ({ server }) =>
        (await listAll(server.client)).map(({ id, size }) => ({ id, size })),
      ),
    );
    expect(listedByFirst).toEqual(listedBySecond);
    expect(new Set(listedByFirst?.map(({ id }) => id))).toEqual(
      new Set(promises.map(({ id }) => id)),
    );
  });

  it('read a document once that both are given at the same time', async () => {
    const { put } = defined(createRecipes(9).at(-1), 'a document that is not there yet');
    const both = await Promise.all([first, second].map(({ server }) => server.client.put(put)));
    expect(both.filter(({ reused }) => reused)).toHaveLength(1);
    await first.server.client.delete(defined(both[0], 'a context').id);
  });

  it('see at once what the other deleted, though they have it in memory', async () => {
    const one = promised(0);
    await first.server.client.put(one.recipe.put);
    await expectRight(second, one);
    await first.server.client.delete(one.id);
    const { request } = defined(one.expected[0], 'a question');
    const gone = { code: 'not_found' };
    await expect(second.server.client.query(one.id, request)).rejects.toMatchObject(gone);
    await expect(second.server.client.get(one.id)).rejects.toMatchObject(gone);
    await expect(second.server.client.delete(one.id)).rejects.toMatchObject(gone);
    await second.server.client.put(one.recipe.put);
    await expectRight(first, one);
  });

  it('lose nothing when one is killed at work: the other answers, and takes over', async () => {
    const random = createRandom(7);
    const steady = promised(0);
    // Not of the same family: its PUT runs the model.
    const one = promised(5);
    await second.server.client.put(steady.recipe.put);
    for (const target of ['both', 'engine', 'server', 'both'] as const) {
      await second.server.client.delete(one.id).catch(() => undefined);
      const killed = new AbortController();
      const now = once(killed.signal, 'abort');
      const steadily = answerUntil(killed.signal, steady);
      const put = first.server.client.put(one.recipe.put, {
        onProgress: ({ phase }) => {
          if (phase === 'persist') killed.abort();
        },
      });
      const lost = put.catch(() => undefined).finally(() => killed.abort());
      await now;
      await delay(random.next() * 5);
      killNow(first, target);
      expect((await second.server.client.put(one.recipe.put)).id).toBe(one.id);
      await expectRight(second, one);
      await lost;
      expect(await steadily).toBeGreaterThan(0);
      if (target === 'engine') {
        await first.server.client.waitReady();
        first = await victimOf(first.server);
      } else {
        await untilGone(first);
        first = await startVictim(workspace);
      }
      await expectRight(first, one);
      expect(await scanStore(workspace.data)).toMatchObject({ orphans: [], unfinished: [] });
    }
  });
});

/** Asks the second server again and again; every answer must be right. */
async function answerUntil(stopped: AbortSignal, one: Promised): Promise<number> {
  let answers = 0;
  do {
    await expectRight(second, one);
    answers++;
  } while (!stopped.aborted);
  await expectRight(second, one);
  return answers;
}
