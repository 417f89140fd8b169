import { expect, test } from 'vitest';
import { untilAborted } from '../../src/core/until-aborted.ts';

const reason = new Error('aborted');
const failure = new Error('failed');

test('what the promise settles to comes through', async () => {
  const { signal } = new AbortController();
  expect(await untilAborted(Promise.resolve(1), signal)).toBe(1);
  await expect(untilAborted(Promise.reject(failure), signal)).rejects.toBe(failure);
});

test('an abort ends the wait with its reason', async () => {
  const controller = new AbortController();
  const waiting = untilAborted(new Promise(() => undefined), controller.signal);
  controller.abort(reason);
  await expect(waiting).rejects.toBe(reason);
});

test('a promise that rejects after the wait is not left to reject unheard', async () => {
  const unheard: unknown[] = [];
  const listener = (error: unknown) => unheard.push(error);
  process.on('unhandledRejection', listener);
  const fails = () => new Promise((_, reject) => setImmediate(() => reject(failure)));
  await expect(untilAborted(fails(), AbortSignal.abort(reason))).rejects.toBe(reason);
  const controller = new AbortController();
  const waiting = untilAborted(fails(), controller.signal);
  controller.abort(reason);
  await expect(waiting).rejects.toBe(reason);
  await new Promise((resolve) => setTimeout(resolve, 5));
  process.off('unhandledRejection', listener);
  expect(unheard).toEqual([]);
});
