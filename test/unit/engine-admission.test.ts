import { describe, expect, it } from 'vitest';
import type { Asker } from '../../src/engine/scheduler.ts';
import { openScheduler, settle, type Limits } from '../support/fake-device.ts';

const { signal } = new AbortController();

describe('admission', () => {
  const asker = (tenant: string, contextId = 'c'): Asker => ({ tenant, contextId });

  /** Takes places; the names of those who came in, and what gives each place back. */
  const openDoor = (limits: Limits) => {
    const { scheduler } = openScheduler(limits);
    const entered: string[] = [];
    const leave = new Map<string, () => void>();
    const come = async (name: string, who: Asker): Promise<void> => {
      leave.set(name, await scheduler.admit(who, signal));
      entered.push(name);
    };
    const goes = async (name: string): Promise<void> => {
      leave.get(name)?.();
      await settle();
    };
    return { scheduler, entered, come, goes };
  };

  it('is first come first served for one tenant and one context', async () => {
    const { scheduler, entered, come, goes } = openDoor({ maxRunning: 2 });
    const all = ['1', '2', '3', '4'].map((name) => come(name, asker('a')));
    await settle();
    expect(entered).toEqual(['1', '2']);
    expect(scheduler.running).toBe(2);
    await goes('2');
    expect(entered).toEqual(['1', '2', '3']);
    await goes('1');
    await Promise.all(all);
    expect(entered).toEqual(['1', '2', '3', '4']);
    await goes('3');
    await goes('4');
    expect(scheduler.running).toBe(0);
  });

  it('prefers the tenant that has the fewest running', async () => {
    const { entered, come, goes } = openDoor({ maxRunning: 3 });
    for (const name of ['a1', 'a2', 'a3', 'a4', 'a5']) void come(name, asker('a'));
    void come('b1', asker('b'));
    void come('b2', asker('b'));
    await settle();
    await goes('a1');
    expect(entered).toEqual(['a1', 'a2', 'a3', 'b1']);
    // As many of each are left: who came first is next.
    await goes('a2');
    expect(entered.at(-1)).toBe('a4');
    await goes('b1');
    expect(entered.at(-1)).toBe('b2');
    await goes('b2');
    await goes('a3');
    expect(entered.at(-1)).toBe('a5');
  });

  it('prefers the context that has the fewest running, of one tenant', async () => {
    const { entered, come, goes } = openDoor({ maxRunning: 2 });
    for (const name of ['x1', 'x2', 'x3']) void come(name, asker('a', 'x'));
    void come('y1', asker('a', 'y'));
    await settle();
    await goes('x1');
    expect(entered).toEqual(['x1', 'x2', 'y1']);
    await goes('y1');
    expect(entered.at(-1)).toBe('x3');
  });

  it('looks at tenants before contexts', async () => {
    const { entered, come, goes } = openDoor({ maxRunning: 2 });
    void come('a-x', asker('a', 'x'));
    void come('b-y', asker('b', 'y'));
    void come('a-z', asker('a', 'z'));
    void come('b-x', asker('b', 'x'));
    await settle();
    await goes('b-y');
    expect(entered).toEqual(['a-x', 'b-y', 'b-x']);
  });

  it('counts a place that is given back twice once', async () => {
    const { scheduler, entered, come, goes } = openDoor({ maxRunning: 2 });
    for (const name of ['1', '2', '3', '4']) void come(name, asker('a'));
    await settle();
    await goes('1');
    await goes('1');
    await goes('1');
    expect(entered).toEqual(['1', '2', '3']);
    expect(scheduler.running).toBe(2);
  });

  it('refuses whoever has waited too long', async () => {
    const { scheduler, come, goes, entered } = openDoor({ maxRunning: 1, maxWaitMs: 20 });
    await come('1', asker('a'));
    await expect(scheduler.admit(asker('b'), signal)).rejects.toMatchObject({
      code: 'overloaded',
      retryAfterSeconds: 2,
      details: { maxWaitMs: 20 },
    });
    await goes('1');
    expect(scheduler.running).toBe(0);
    await come('2', asker('a'));
    expect(entered).toEqual(['1', '2']);
  });

  it('is given up by an abort, before and while waiting', async () => {
    const { scheduler, come, goes } = openDoor({ maxRunning: 1 });
    await expect(scheduler.admit(asker('a'), AbortSignal.abort('early'))).rejects.toBe('early');
    expect(scheduler.running).toBe(0);
    await come('1', asker('a'));
    const cancellation = new AbortController();
    const waiting = scheduler.admit(asker('a'), cancellation.signal);
    cancellation.abort('late');
    await expect(waiting).rejects.toBe('late');
    await goes('1');
    expect(scheduler.running).toBe(0);
  });

  it('loses no place to one who gives up as it gets it', async () => {
    const { scheduler, come, goes } = openDoor({ maxRunning: 1 });
    await come('1', asker('a'));
    const cancellation = new AbortController();
    const waiting = scheduler.admit(asker('a'), cancellation.signal);
    const given = goes('1');
    cancellation.abort('late');
    const [outcome] = await Promise.allSettled([waiting, given]);
    if (outcome.status === 'fulfilled') outcome.value();
    expect(scheduler.running).toBe(0);
  });
});
