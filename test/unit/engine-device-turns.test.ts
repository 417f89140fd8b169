import { describe, expect, it } from 'vitest';
import { DeviceTurns, type TurnKind } from '../../src/engine/device-turns.ts';

describe('DeviceTurns', () => {
  it('lets the waiting kinds take turns, first come first served within a kind', async () => {
    const turns = new DeviceTurns();
    const order: string[] = [];
    const names = ['ingest 1', 'ingest 2', 'ingest 3', 'extend 1', 'extend 2', 'step 1', 'step 2'];
    await Promise.all(
      names.map((name) => turns.run(name.split(' ')[0] as TurnKind, () => order.push(name))),
    );
    expect(order).toEqual([
      'step 1',
      'extend 1',
      'ingest 1',
      'step 2',
      'extend 2',
      'ingest 2',
      'ingest 3',
    ]);
  });

  it('returns what the work returns, and works again after a rest', async () => {
    const turns = new DeviceTurns();
    await expect(turns.run('step', () => 1)).resolves.toBe(1);
    await new Promise((resolve) => setTimeout(resolve, 5));
    await expect(turns.run('ingest', () => 2)).resolves.toBe(2);
  });

  it('lets messages in between two pieces of work', async () => {
    const turns = new DeviceTurns();
    const order: string[] = [];
    const first = turns.run('ingest', () => {
      order.push('first');
      setImmediate(() => order.push('message'));
    });
    await Promise.all([first, turns.run('ingest', () => order.push('second'))]);
    expect(order).toEqual(['first', 'message', 'second']);
  });

  it('lets a decode step in between any two slices of an ingestion', async () => {
    const turns = new DeviceTurns();
    const order: string[] = [];
    const many = async (kind: TurnKind, count: number): Promise<void> => {
      for (let i = 0; i < count; i++) await turns.run(kind, () => order.push(kind));
    };
    await Promise.all([many('ingest', 5), many('step', 5)]);
    expect(order.join(' ')).toBe('step ingest step ingest step ingest step ingest step ingest');
  });

  it('rejects the caller whose work throws, and nobody else', async () => {
    const turns = new DeviceTurns();
    const failing = turns.run('step', () => {
      throw new Error('broken');
    });
    const other = turns.run('step', () => 'well');
    await expect(failing).rejects.toThrow('broken');
    await expect(other).resolves.toBe('well');
  });

  it('does not run work whose signal was aborted while it waited', async () => {
    const turns = new DeviceTurns();
    const cancellation = new AbortController();
    const order: string[] = [];
    const first = turns.run('extend', () => cancellation.abort(new Error('gave up')));
    const second = turns.run('extend', () => order.push('second'), cancellation.signal);
    await first;
    await expect(second).rejects.toThrow('gave up');
    expect(order).toEqual([]);
  });

  it('refuses what waits and what comes once it is closed', async () => {
    const turns = new DeviceTurns();
    const order: string[] = [];
    const running = turns.run('step', () => {
      order.push('running');
      turns.close();
    });
    const waiting = turns.run('ingest', () => order.push('waiting'));
    const refusal = { code: 'engine_unavailable', retryAfterSeconds: 1 };
    await expect(running).resolves.toBeUndefined();
    await expect(waiting).rejects.toMatchObject(refusal);
    await expect(turns.run('step', () => order.push('late'))).rejects.toMatchObject(refusal);
    turns.close();
    expect(order).toEqual(['running']);
  });
});
