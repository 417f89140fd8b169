import { describe, expect, it } from 'vitest';
import { KeyedQueue } from '../../src/engine/keyed-queue.ts';
import { Gate } from '../support/fake-engine.ts';

const { signal } = new AbortController();

/** Takes a place in line and holds it until the gate opens. */
function hold(queue: KeyedQueue, key: string, order: string[], name: string) {
  const gate = new Gate();
  const run = queue.run(
    { key, tenant: '' },
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
    const failing = queue.run(
      { key: 'key', tenant: '' },
      () => Promise.reject(new Error('broken')),
      signal,
    );
    const next = queue.run({ key: 'key', tenant: '' }, () => Promise.resolve('well'), signal);
    await expect(failing).rejects.toThrow('broken');
    await expect(next).resolves.toBe('well');
  });

  it('lets a caller leave at once who gives up waiting, and nobody pass in its place', async () => {
    const queue = new KeyedQueue();
    const order: string[] = [];
    const first = hold(queue, 'key', order, 'first');
    const impatient = new AbortController();
    const left = queue.run(
      { key: 'key', tenant: '' },
      async () => order.push('left'),
      impatient.signal,
    );
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
    const run = queue.run({ key: 'key', tenant: '' }, async () => order.push('run'), aborted);
    await expect(run).rejects.toThrow('gave up');
    expect(order).toEqual([]);
  });

  it('lets tenants take turns, whoever came first, and each in its own order', async () => {
    const queue = new KeyedQueue();
    const order: string[] = [];
    const ask = (name: string, during?: () => void): Promise<void> =>
      queue.run(
        { key: 'key', tenant: name.slice(0, 1) },
        async () => {
          order.push(name);
          during?.();
          await settle();
        },
        signal,
      );
    let late: Promise<void> | undefined;
    const early = ['a1', 'a2', 'a3', 'a4'].map((name) => ask(name));
    early.push(
      ask('b1', () => {
        late = ask('d1');
      }),
      ask('b2'),
      ask('c1'),
    );
    await Promise.all(early);
    await late;
    expect(order).toEqual(['a1', 'b1', 'c1', 'd1', 'a2', 'b2', 'a3', 'a4']);
  });
});
