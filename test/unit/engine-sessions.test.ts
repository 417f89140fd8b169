import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { contextTokens, type ContextRecord } from '../../src/core/context.ts';
import type { ChatMessage, EngineAnswer, EngineSession } from '../../src/engine/protocol.ts';
import { TestEngine, type AnswerOptions } from '../support/engine.ts';
import { goldenDocument, readGolden } from '../support/golden.ts';
import { embeddedCheckpoint } from '../support/models.ts';
import { randomCheckpoint, type RandomCheckpoint } from '../support/random-checkpoint.ts';

const ttlMs = 60_000;

interface Opening {
  readonly record: ContextRecord;
  readonly keepRatio?: number;
}

function openSession(engine: TestEngine, { record, keepRatio = 0.6 }: Opening): EngineSession {
  return engine.sessions.open({ record, keepRatio, tenant: '', ttlMs });
}

function ask(
  engine: TestEngine,
  { id: sessionId }: EngineSession,
  query: string,
  options: AnswerOptions = {},
): Promise<EngineAnswer> {
  return engine.answer('', { ...options, query, source: { kind: 'session', sessionId } });
}

describe('a session with reader-mini', () => {
  const document = goldenDocument(readGolden('reader-mini'), 'wiki-observatory');
  const questions = document.questions.slice(0, 3).map(({ query }) => query);
  let engine: TestEngine;
  let record: ContextRecord;
  beforeAll(async () => {
    engine = await TestEngine.open({ checkpoint: await embeddedCheckpoint('reader-mini') });
    const request = { compression: { keepRatio: 0.6 } };
    record = (await engine.ingest(document.document, { request })).record;
  });
  afterAll(() => engine.close());

  // Answers that end by themselves, and answers that are cut: their last token is computed late.
  it.each([32, 2])(
    'answers as the whole conversation would be, %d tokens at most',
    async (maxTokens) => {
      const session = openSession(engine, { record });
      const turns: ChatMessage[] = [];
      for (const query of questions) {
        turns.push({ role: 'user', content: query });
        const sampling = { maxTokens };
        const expected = await engine.answer(record.id, { turns, keepRatio: 0.6, sampling });
        const { tokens } = engine.sessions.get(session.id).view;
        const { answer, finishReason, usage } = await ask(engine, session, query, { sampling });
        expect({ answer, finishReason }).toEqual({
          answer: expected.answer,
          finishReason: expected.finishReason,
        });
        // As many tokens: the answers' texts have become the tokens that were generated.
        const isFirst = turns.length === 1;
        const pending = isFirst || maxTokens > 2 ? 0 : 1;
        expect(tokens + usage.queryTokens - pending).toBe(expected.usage.queryTokens);
        expect(usage.prefilledTokens).toBe(usage.queryTokens);
        // The model begins its answers with a space, which is not handed out.
        turns.push({ role: 'assistant', content: ` ${answer}` });
      }
    },
  );

  it('leaves its context as it was', async () => {
    const [query = ''] = questions;
    const before = await engine.answer(record.id, { query });
    const session = openSession(engine, { record });
    for (const question of questions) await ask(engine, session, question);
    const after = await engine.answer(record.id, { query });
    expect(after.cache.source).toBe('host');
    expect(after.answer).toBe(before.answer);
    const { record: stored } = engine.store.get(record.id) ?? {};
    expect(stored).toEqual(record);
  });
});

describe('a session', () => {
  const document = 'The lease of the mill was signed by Ada Finch on 4 May 1911, before witnesses.';
  /** Every token is drawn from the whole distribution: an answer shows a small difference. */
  const sampling = { maxTokens: 12, temperature: 1, seed: 5 };
  /** Bytes of a token's pairs: two layers of two KV heads of 16. */
  const tokenBytes = 4 * 2 * 16 * Float32Array.BYTES_PER_ELEMENT;
  let random: RandomCheckpoint;
  let engine: TestEngine;
  let record: ContextRecord;
  let contextBytes: number;
  let nowMs = 1_000_000;
  const open = (keepRatio = 0.6): EngineSession => openSession(engine, { record, keepRatio });
  const turn = (session: EngineSession, query: string, options: AnswerOptions = {}) =>
    ask(engine, session, query, { sampling, ...options });
  const view = ({ id }: EngineSession): EngineSession => engine.sessions.get(id).view;
  const expectNoSession = (session: EngineSession): Promise<void> =>
    expect(turn(session, 'Still there?')).rejects.toMatchObject({ code: 'not_found' });

  beforeAll(async () => {
    random = await randomCheckpoint();
    const clock = { nowMs: () => nowMs, monotonicMs: () => performance.now() };
    engine = await TestEngine.open({ checkpoint: random.checkpoint, clock });
  });
  beforeEach(async () => {
    const request = { compression: { keepRatio: 0.6 } };
    record = (await engine.ingest(document, { request })).record;
    contextBytes = record.pairCounts.reduce((sum, count) => sum + count, 0) * (tokenBytes / 4);
  });
  afterEach(async () => {
    // Nothing of any session is left, however it ended.
    engine.sessions.close();
    engine.loaded.drop(record.id);
    expect(engine.loaded.sizeBytes).toBe(0);
    expect(engine.scheduler.running).toBe(0);
    await engine.store.delete(record.id);
    nowMs++;
  });
  afterAll(async () => {
    await engine.close();
    random.remove();
  });

  describe('between turns', () => {
    it('says what it holds', async () => {
      const session = open(0.3);
      expect(session).toMatchObject({
        contextId: record.id,
        keepRatio: 0.3,
        turns: 0,
        tokens: 0,
        createdAtMs: nowMs,
        expiresAtMs: nowMs + ttlMs,
      });
      expect(session.id).toMatch(/^ses_[0-9a-f]{32}$/);
      const { usage, cache } = await turn(session, 'Who signed?');
      expect(cache.keepRatio).toBe(0.3);
      expect(usage.contextTokens).toBe(record.document.tokens);
      const held = usage.queryTokens + usage.completionTokens;
      expect(view(session)).toMatchObject({ turns: 1, tokens: held });
    });

    it('keeps the memory of its own tokens, and gives it back at its end', async () => {
      const session = open();
      await turn(session, 'Who signed?');
      await turn(session, 'And when?');
      // The last token of an answer that was cut is not computed yet.
      const tailBytes = (view(session).tokens - 1) * tokenBytes;
      expect(engine.loaded.sizeBytes).toBe(contextBytes + tailBytes);
      engine.sessions.end(session.id);
      expect(engine.loaded.sizeBytes).toBe(contextBytes);
      await expectNoSession(session);
    });

    it('may lose its context from memory', async () => {
      const [kept, lost] = [open(), open()];
      for (const session of [kept, lost]) await turn(session, 'Who signed?');
      const expected = await turn(kept, 'And when?');
      engine.loaded.drop(record.id);
      const answer = await turn(lost, 'And when?');
      expect([expected.cache.source, answer.cache.source]).toEqual(['host', 'disk']);
      expect(answer.answer).toBe(expected.answer);
    });

    it('depends on what was asked before, and is apart from other sessions', async () => {
      const [first, second] = [open(), open()];
      await turn(first, 'Who signed?');
      await turn(second, 'What was signed?');
      const answers = [await turn(first, 'And when?'), await turn(second, 'And when?')];
      expect(answers[0]?.answer).not.toBe(answers[1]?.answer);
    });
  });

  describe('asked twice at once', () => {
    it('answers one question after the other', async () => {
      const [apart, together] = [open(), open()];
      const queries = ['Who signed?', 'And when?', 'Before whom?'];
      const expected: string[] = [];
      for (const query of queries) expected.push((await turn(apart, query)).answer);
      const answers = await Promise.all(queries.map((query) => turn(together, query)));
      expect(answers.map(({ answer }) => answer)).toEqual(expected);
    });

    it('lets one who gives up while waiting go at once', async () => {
      const session = open();
      const cancellation = new AbortController();
      const order: string[] = [];
      const first = turn(session, 'Who signed?').then(() => order.push('first'));
      const second = turn(session, 'And when?', { signal: cancellation.signal }).then(
        ({ finishReason }) => order.push(finishReason),
      );
      cancellation.abort();
      await Promise.all([first, second]);
      expect(order).toEqual(['cancelled', 'first']);
      expect(view(session).turns).toBe(1);
    });

    it('tells one who has given up so, also when the session is no more', async () => {
      const session = open(0.3);
      const cancellation = new AbortController();
      const first = turn(session, 'Who signed?');
      const second = turn(session, 'And when?', { signal: cancellation.signal });
      const outcomes = Promise.allSettled([first, second]);
      engine.sessions.end(session.id);
      cancellation.abort();
      await expect(outcomes).resolves.toMatchObject([
        { value: { finishReason: 'length' } },
        { value: { finishReason: 'cancelled', cache: { keepRatio: 0.3 } } },
      ]);
    });
  });

  describe('whose turn is given up', () => {
    /** An answer after a first turn, some mishap, and a last turn. */
    const lastAnswer = async (mishap: (session: EngineSession) => Promise<void>) => {
      const session = open();
      await turn(session, 'Who signed?');
      const before = view(session);
      await mishap(session);
      expect(view(session)).toEqual(before);
      return (await turn(session, 'And when?')).answer;
    };
    const nothing = (): Promise<void> => Promise.resolve();

    it('is as it was, if it was cancelled while answering', async () => {
      const cancelled = await lastAnswer(async (session) => {
        const cancellation = new AbortController();
        const { finishReason, answer } = await turn(session, 'What else is there to know?', {
          sampling: { ...sampling, maxTokens: 300 },
          onText: () => cancellation.abort(),
          signal: cancellation.signal,
        });
        expect(finishReason).toBe('cancelled');
        expect(answer).not.toBe('');
      });
      expect(cancelled).toBe(await lastAnswer(nothing));
    });

    it('is as it was, if the question does not fit the window', async () => {
      const refused = await lastAnswer(async (session) => {
        const query = 'again '.repeat(1000);
        await expect(turn(session, query)).rejects.toMatchObject({ code: 'context_too_long' });
      });
      expect(refused).toBe(await lastAnswer(nothing));
    });

    it('can be asked again for the first time', async () => {
      const [fresh, session] = [open(), open()];
      const cancellation = new AbortController();
      const options = { onText: () => cancellation.abort(), signal: cancellation.signal };
      await turn(session, 'What else?', options);
      expect(view(session)).toMatchObject({ turns: 0, tokens: 0 });
      const expected = await turn(fresh, 'Who signed?');
      expect((await turn(session, 'Who signed?')).answer).toBe(expected.answer);
    });
  });

  it('is refused when its conversation has filled the window', async () => {
    const session = open();
    const query = 'again '.repeat(300);
    const sampled = { ...sampling, maxTokens: 200 };
    await turn(session, query, { sampling: sampled });
    await expect(turn(session, query.repeat(2), { sampling: sampled })).rejects.toMatchObject({
      code: 'context_too_long',
      details: { contextTokens: contextTokens(record) + view(session).tokens },
    });
  });

  describe('ends', () => {
    it('when it was not used for its time, which each turn begins anew', async () => {
      const session = open();
      nowMs += ttlMs - 1;
      await turn(session, 'Who signed?');
      expect(view(session)).toMatchObject({ lastUsedAtMs: nowMs, expiresAtMs: nowMs + ttlMs });
      nowMs += ttlMs - 1;
      await turn(session, 'And when?');
      nowMs += ttlMs;
      await expectNoSession(session);
      expect(engine.loaded.sizeBytes).toBe(contextBytes);
    });

    it('not while it is asked, however long that takes', async () => {
      const session = open();
      const { answer } = await turn(session, 'Who signed?', {
        onText: () => {
          nowMs += 10 * ttlMs;
          engine.sessions.get(session.id);
        },
      });
      expect(answer).not.toBe('');
      expect(view(session).turns).toBe(1);
    });

    it('while it is asked only with the answer', async () => {
      const [whole, session] = [open(), open()];
      const expected = await turn(whole, 'Who signed?');
      let hasEnded = false;
      const { answer } = await turn(session, 'Who signed?', {
        onText: () => {
          if (!hasEnded) engine.sessions.end(session.id);
          hasEnded = true;
        },
      });
      expect(answer).toBe(expected.answer);
      await expectNoSession(session);
      engine.sessions.end(whole.id);
      expect(engine.loaded.sizeBytes).toBe(contextBytes);
    });

    it('for who waits behind another question', async () => {
      const session = open();
      let hasEnded = false;
      const end = (): void => {
        if (!hasEnded) engine.sessions.end(session.id);
        hasEnded = true;
      };
      const [first, second] = await Promise.allSettled([
        turn(session, 'Who signed?', { onText: end }),
        turn(session, 'And when?'),
      ]);
      expect(first).toMatchObject({ status: 'fulfilled', value: { finishReason: 'length' } });
      expect(second).toMatchObject({ status: 'rejected', reason: { code: 'not_found' } });
    });

    it('with its context', async () => {
      const session = open();
      const asked = turn(session, 'Who signed?', {
        onText: () => {
          engine.sessions.endOf(record.id);
          engine.loaded.drop(record.id);
        },
      });
      await expect(asked).resolves.toMatchObject({ finishReason: 'length' });
      await expectNoSession(session);
      expect(engine.loaded.sizeBytes).toBe(0);
    });

    it('in a conflict when its context was put again meanwhile', async () => {
      const session = open();
      await turn(session, 'Who signed?');
      await engine.store.delete(record.id);
      engine.loaded.drop(record.id);
      nowMs++;
      await engine.ingest(document, { request: { compression: { keepRatio: 0.6 } } });
      await expect(turn(session, 'And when?')).rejects.toMatchObject({ code: 'conflict' });
    });
  });

  it('is refused when there are too many, until one ends or expires', async () => {
    const sessions = Array.from({ length: 4 }, () => open());
    expect(() => open()).toThrow(
      expect.objectContaining({ code: 'overloaded', details: { maxSessions: 4 } }),
    );
    engine.sessions.end(sessions[0]?.id ?? '');
    const last = open();
    expect(() => open()).toThrow(expect.objectContaining({ code: 'overloaded' }));
    nowMs += ttlMs;
    expect(() => view(last)).toThrow(expect.objectContaining({ code: 'not_found' }));
    await expect(turn(open(), 'Who signed?')).resolves.toMatchObject({ finishReason: 'length' });
  });

  it('may be half of all for one tenant, and leaves the rest to others', () => {
    const openFor = (tenant: string): EngineSession =>
      engine.sessions.open({ record, keepRatio: 0.6, tenant, ttlMs });
    const opened = ['a', 'a'].map(openFor);
    expect(() => openFor('a')).toThrow(
      expect.objectContaining({ code: 'rate_limited', details: { maxSessions: 2 } }),
    );
    opened.push(openFor('b'), openFor('b'));
    expect(() => openFor('c')).toThrow(expect.objectContaining({ code: 'overloaded' }));
    for (const { id } of opened) engine.sessions.end(id);
  });

  it('that is not there cannot be ended', () => {
    expect(() => engine.sessions.end('ses_none')).toThrow(
      expect.objectContaining({ code: 'not_found' }),
    );
  });
});
