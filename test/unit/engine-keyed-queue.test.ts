import { describe, expect, it } from 'vitest';
import { KeyedQueue } from '../../src/engine/keyed-queue.ts';
import { Gate } from '../support/fake-engine.ts';

const { signal } = new AbortController();

/** Takes a place in line and holds it until the gate opens. */
function hold(queue: KeyedQueue, key: string, order: string[], name: string) {
  const gate = new Gate();
  const run = queue.run(
    key,
    async () => {
      order.push(name);
      await gate.opened;
      return name;
    },
    signal,
  );
  return { gate, run };
}

/** Lets everything that can go on now go on. */
function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

describe('KeyedQueue', () => {
  it('runs one after another for a key, in the order of the calls', async () => {
    const queue = new KeyedQueue();
    const order: string[] = [];
    const [a, b, c] = ['a', 'b', 'c'].map((name) => hold(queue, 'key', order, name));
    await settle();
    expect(order).toEqual(['a']);
    c?.gate.open();
    a?.gate.open();
    await a?.run;
    await settle();
    expect(order).toEqual(['a', 'b']);
    b?.gate.open();
    await expect(c?.run).resolves.toBe('c');
    expect(order).toEqual(['a', 'b', 'c']);
  });

  it('does not let different keys wait for each other', async () => {
    const queue = new KeyedQueue();
    const order: string[] = [];
    hold(queue, 'held', order, 'held');
    const free = hold(queue, 'free', order, 'free');
    free.gate.open();
    await expect(free.run).resolves.toBe('free');
  });

  it('goes on after a failure', async () => {
    const queue = new KeyedQueue();
    const failing = queue.run('key', () => Promise.reject(new Error('broken')), signal);
    const next = queue.run('key', () => Promise.resolve('well'), signal);
    await expect(failing).rejects.toThrow('broken');
    await expect(next).resolves.toBe('well');
  });

  it('lets a caller leave at once who gives up waiting, and nobody pass in its place', async () => {
    const queue = new KeyedQueue();
    const order: string[] = [];
    const first = hold(queue, 'key', order, 'first');
    const impatient = new AbortController();
    const left = queue.run('key', async () => order.push('left'), impatient.signal);
    const last = hold(queue, 'key', order, 'last');
    await settle();
    impatient.abort(new Error('gave up'));
    await expect(left).rejects.toThrow('gave up');
    const later = hold(queue, 'key', order, 'later');
    await settle();
    expect(order).toEqual(['first']);
    for (const { gate } of [first, last, later]) gate.open();
    await later.run;
    expect(order).toEqual(['first', 'last', 'later']);
  });

  it('does not run what was given up before', async () => {
    const queue = new KeyedQueue();
    const order: string[] = [];
    const aborted = AbortSignal.abort(new Error('gave up'));
    const run = queue.run('key', async () => order.push('run'), aborted);
    await expect(run).rejects.toThrow('gave up');
    expect(order).toEqual([]);
  });
});
