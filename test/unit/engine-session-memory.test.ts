import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { ContextRecord } from '../../src/core/context.ts';
import type { EngineAnswer, EngineSession } from '../../src/engine/protocol.ts';
import { TestEngine, type AnswerOptions } from '../support/engine.ts';
import { tokenBytes } from '../support/loaded-contexts.ts';
import { randomCheckpoint, type RandomCheckpoint } from '../support/random-checkpoint.ts';

describe('sessions in a memory for 400 tokens', () => {
  const tokens = 400;
  const document = 'The lease of the mill was signed by Ada Finch.';
  /** Refused soon: nothing that happens later makes room. */
  const options = { sampling: { maxTokens: 2 }, maxWaitMs: 200 };
  let random: RandomCheckpoint;
  let engine: TestEngine;
  let record: ContextRecord;
  let nowMs = 1_000_000;

  beforeAll(async () => {
    random = await randomCheckpoint();
    const clock = { nowMs: () => nowMs, monotonicMs: () => performance.now() };
    const poolBytes = tokens * tokenBytes;
    engine = await TestEngine.open({ checkpoint: random.checkpoint, clock, poolBytes });
    record = (await engine.ingest(document)).record;
  });
  beforeEach(() => engine.loaded.drop(record.id));
  afterEach(() => {
    engine.sessions.close();
    engine.loaded.drop(record.id);
    expect(engine.loaded.sizeBytes).toBe(0);
  });
  afterAll(async () => {
    await engine.close();
    random.remove();
  });

  const open = (): EngineSession => {
    const { keepRatio } = record.compression;
    return engine.sessions.open({ record, keepRatio, tenant: '', ttlMs: 60_000 });
  };
  const ask = (session: EngineSession, query: string, more: AnswerOptions = {}) => {
    const source = { kind: 'session', sessionId: session.id } as const;
    return engine.answer('', { ...options, query, source, ...more });
  };
  const heldBy = ({ id }: EngineSession): number => engine.sessions.get(id).view.tokens;
  const isOpen = ({ id }: EngineSession): boolean => {
    try {
      return engine.sessions.get(id).view.id === id;
    } catch {
      return false;
    }
  };
  /** A session that holds about so many tokens, and was used last of all so far. */
  const grown = async (about: number): Promise<EngineSession> => {
    const session = open();
    nowMs++;
    await ask(session, wordsOf(about - 20));
    expect(heldBy(session)).toBeGreaterThan(about - 20);
    expect(heldBy(session)).toBeLessThan(about + 40);
    return session;
  };
  /** As many tokens, about. */
  const wordsOf = (count: number): string => {
    const { tokenizer } = random.checkpoint;
    const each = tokenizer.encode(' one two').length;
    return ' one two'.repeat(Math.ceil(count / each)).trim();
  };
  const askContext = (maxTokens: number): Promise<EngineAnswer> =>
    engine.answer(record.id, { ...options, query: 'Who?', sampling: { maxTokens } });

  it('need room for their new tokens only, however much they hold', async () => {
    const session = await grown(250);
    await expect(ask(session, 'And when?')).resolves.toMatchObject({ finishReason: 'length' });
    expect(isOpen(session)).toBe(true);
  });

  it('that could never go on are told so, and stay as they are', async () => {
    const session = await grown(250);
    const held = heldBy(session);
    const long = { sampling: { maxTokens: tokens - held } };
    const asked = ask(session, 'And when?', long);
    await expect(asked).rejects.toMatchObject({ code: 'out_of_memory' });
    expect(heldBy(session)).toBe(held);
  });

  it('give way to others while nobody asks them, the least recently used first', async () => {
    const first = await grown(100);
    const second = await grown(100);
    await ask(first, 'And?');
    const third = await grown(60);
    await askContext(150);
    expect([first, second, third].map(isOpen)).toEqual([true, false, true]);
    await expect(ask(second, 'Still there?')).rejects.toMatchObject({
      code: 'not_found',
      message: expect.stringContaining('memory is short') as string,
    });
  });

  it('give way to prompts and to other sessions, too', async () => {
    const [first, second] = [await grown(150), await grown(100)];
    const source = { kind: 'prompt', document: undefined, instructions: undefined } as const;
    await engine.answer('', { ...options, query: wordsOf(200), source });
    expect([first, second].map(isOpen)).toEqual([false, true]);
    const third = await grown(320);
    expect([second, third].map(isOpen)).toEqual([false, true]);
  });

  it('are not ended in vain, if running queries hold too much', async () => {
    const session = await grown(100);
    const running = engine.loaded.borrow(250);
    await expect(askContext(200)).rejects.toMatchObject({ code: 'overloaded' });
    expect(isOpen(session)).toBe(true);
    engine.loaded.release(running);
  });

  it('never give way while they are asked, or somebody waits to', async () => {
    const session = await grown(200);
    const refused: unknown[] = [];
    const onText = (): void => {
      try {
        engine.loaded.borrow(200);
      } catch (error) {
        refused.push(error);
      }
    };
    const [first, second] = await Promise.all([
      ask(session, 'And when?', { onText }),
      ask(session, 'Where?', { onText }),
    ]);
    expect([first, second].map(({ finishReason }) => finishReason)).toEqual(['length', 'length']);
    expect(refused.length).toBeGreaterThan(0);
    expect(refused[0]).toMatchObject({ code: 'overloaded' });
    expect(isOpen(session)).toBe(true);
  });

  it('let those go on who waited, as soon as nobody asks them any more', async () => {
    const session = await grown(200);
    let waiting: Promise<EngineAnswer> | undefined;
    const onText = (): void => {
      waiting ??= engine.answer(record.id, { sampling: { maxTokens: 200 } });
    };
    await ask(session, 'And when?', { onText });
    await expect(waiting).resolves.toMatchObject({ finishReason: 'length' });
    expect(isOpen(session)).toBe(false);
  });
});
