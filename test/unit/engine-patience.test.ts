import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { EngineQuery, QuerySource } from '../../src/engine/protocol.ts';
import { promptQueue } from '../../src/engine/prompt-context.ts';
import { answer } from '../../src/engine/answer.ts';
import { engineQuery, TestEngine } from '../support/engine.ts';
import { Gate } from '../support/fake-engine.ts';
import { randomCheckpoint, type RandomCheckpoint } from '../support/random-checkpoint.ts';

const { signal } = new AbortController();
const prompt: QuerySource = { kind: 'prompt', document: undefined, instructions: undefined };

describe('a query', () => {
  let random: RandomCheckpoint;
  let engine: TestEngine;
  /** As queries see it; it stands still but for the tests. */
  let nowMs = 0;
  beforeAll(async () => {
    random = await randomCheckpoint();
    const clock = { nowMs: () => 1_000_000 + nowMs, monotonicMs: () => nowMs };
    engine = await TestEngine.open({ checkpoint: random.checkpoint, clock });
  });
  afterAll(async () => {
    await engine.close();
    random.remove();
  });

  const ask = (query: Pick<EngineQuery, 'source'> & Partial<EngineQuery>, maxWaitMs = 60_000) =>
    answer(
      { ...engine.parts(), maxWaitMs },
      { query: { ...engineQuery(''), ...query }, onText, signal },
    );
  const onText = (): void => undefined;
  /** Has the turn of a line until the gate is opened. */
  const hold = (key: string, tenant = '') => {
    const gate = new Gate();
    return { gate, run: engine.queue.run({ key, tenant }, () => gate.opened, signal) };
  };

  it('of a session waits for those before it no longer than it may', async () => {
    const { record } = await engine.ingest('The lease was signed by Ada Finch.');
    const opening = { record, keepRatio: record.compression.keepRatio, tenant: '', ttlMs: 60_000 };
    const session = engine.sessions.open(opening);
    const source = { kind: 'session', sessionId: session.id } as const;
    const held = hold(session.id);
    await expect(ask({ source }, 20)).rejects.toMatchObject({
      code: 'overloaded',
      details: { maxWaitMs: 20 },
    });
    held.gate.open();
    await held.run;
    await expect(ask({ source }, 20)).resolves.toMatchObject({ finishReason: 'length' });
    engine.sessions.close();
  });

  it('waits so long in all, in line and for a place', async () => {
    const held = hold(promptQueue);
    const who = { tenant: '', contextId: '' };
    const places = Array.from({ length: 16 }, () => engine.scheduler.admit(who, signal));
    const leave = await Promise.all(places);
    const asked = ask({ source: prompt });
    nowMs += 59_980;
    held.gate.open();
    await expect(asked).rejects.toMatchObject({
      code: 'overloaded',
      details: { maxWaitMs: 60_000 },
    });
    for (const each of leave) each();
    expect(engine.scheduler.running).toBe(0);
  });

  it('without a context waits for one prompt of each other tenant at most', async () => {
    const held = hold(promptQueue, 'a');
    const order: string[] = [];
    const asked = ['a', 'a', 'a', 'b'].map(async (tenant) => {
      await ask({ source: prompt, tenant });
      order.push(tenant);
    });
    held.gate.open();
    await Promise.all(asked);
    expect(order[0]).toBe('b');
  });
});
