import { expect, test } from 'vitest';
import { Admission } from '../../src/service/admission.ts';
import { AsyncQueue } from '../../src/service/async-queue.ts';
import { hasExpired, usageChange } from '../../src/service/usage-change.ts';

test('admission refuses past its limit and admits again when a place is given back', () => {
  const admission = new Admission('things', { all: 2 });
  const leave = admission.enter('');
  admission.enter('');
  expect(() => admission.enter('')).toThrow('at most 2 things at once but');
  leave();
  leave();
  expect(admission.taken).toBe(1);
  admission.enter('');
  expect(() => admission.enter('')).toThrow('at most 2 things at once but');
});

test('one tenant takes no more than its share, and nobody more than all', () => {
  const admission = new Admission('things', { all: 3, each: 2 });
  const leave = [admission.enter('a'), admission.enter('a')];
  const refused = (tenant: string) => {
    try {
      admission.enter(tenant)();
      return undefined;
    } catch (error) {
      return error;
    }
  };
  const retryAfterSeconds = expect.any(Number) as number;
  expect(refused('a')).toMatchObject({ code: 'rate_limited', retryAfterSeconds });
  expect(refused('b')).toBeUndefined();
  leave.push(admission.enter(''));
  expect(refused('b')).toMatchObject({ code: 'overloaded', retryAfterSeconds });
  expect(refused('a')).toMatchObject({ code: 'rate_limited' });
  for (const back of leave) back();
  expect(admission.taken).toBe(0);
  expect(refused('a')).toBeUndefined();
});

test('without tenants there is no share, and half of the places is the share if none is named', () => {
  const admission = new Admission('things', { all: 3 });
  for (let i = 0; i < 3; i++) admission.enter('');
  expect(() => admission.enter('')).toThrow('at most 3 things at once but');
  const shared = new Admission('things', { all: 3 });
  shared.enter('a');
  shared.enter('a');
  expect(() => shared.enter('a')).toThrow('at most 2 things at once of one tenant');
});

test('a queue gives what was pushed before it ended or failed, in order', async () => {
  const ended = new AsyncQueue<{ n: number }>();
  ended.push({ n: 1 });
  ended.push({ n: 2 });
  ended.end();
  const read: number[] = [];
  for await (const { n } of ended) read.push(n);
  expect(read).toEqual([1, 2]);
  const failed = new AsyncQueue<{ n: number }>();
  failed.push({ n: 1 });
  failed.fail(new Error('broken'));
  expect((await failed.next()).value).toEqual({ n: 1 });
  await expect(failed.next()).rejects.toThrow('broken');
});

test('a reader that waits is woken by a push', async () => {
  const queue = new AsyncQueue<{ n: number }>();
  const next = queue.next();
  queue.push({ n: 3 });
  expect((await next).value).toEqual({ n: 3 });
});

test('a usage change has only what the request gives', () => {
  expect(usageChange({}, 1000)).toEqual({});
  expect(usageChange({ ttlSeconds: 2, pinned: false }, 1000)).toEqual({
    expiresAtMs: 3000,
    pinned: false,
  });
  expect(usageChange({ ttlSeconds: null, labels: {} }, 1000)).toEqual({
    expiresAtMs: null,
    labels: {},
  });
});

test('a context expires at its time, not before', () => {
  const usage = { lastUsedAtMs: 0, expiresAtMs: 1000, pinned: false, labels: {} };
  expect(hasExpired(usage, 999)).toBe(false);
  expect(hasExpired(usage, 1000)).toBe(true);
  expect(hasExpired({ ...usage, expiresAtMs: null }, 1e15)).toBe(false);
});
