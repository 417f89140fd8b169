import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { defined } from '../../src/core/assert.ts';
import { concatenate } from '../../src/core/concatenate.ts';
import type { ChatMessage, QuerySource } from '../../src/engine/protocol.ts';
import { firstTokens } from '../../src/runtime/runtime.ts';
import { TestEngine, type AnswerOptions } from '../support/engine.ts';
import { goldenDocument, readGolden } from '../support/golden.ts';
import { embeddedCheckpoint } from '../support/models.ts';
import { randomCheckpoint, type RandomCheckpoint } from '../support/random-checkpoint.ts';

function prompt(document?: string, instructions?: string): QuerySource {
  return { kind: 'prompt', document, instructions };
}

describe('a prompt of reader-mini', () => {
  const { document, questions } = goldenDocument(readGolden('reader-mini'), 'wiki-observatory');
  let engine: TestEngine;
  beforeAll(async () => {
    engine = await TestEngine.open({ checkpoint: await embeddedCheckpoint('reader-mini') });
  });
  afterAll(() => engine.close());

  it.each([undefined, 'Answer in one word.'])(
    'is answered as a context of all its pairs, with instructions %s',
    async (instructions) => {
      const compression = { method: 'none', keepRatio: 1, precision: 'f32' };
      const { record } = await engine.ingest(document, { request: { instructions, compression } });
      for (const { query } of questions) {
        const options = { query, sampling: { maxTokens: 24 } };
        const expected = await engine.answer(record.id, options);
        const source = prompt(document, instructions);
        const { answer, finishReason } = await engine.answer('', { ...options, source });
        expect({ answer, finishReason }).toEqual({
          answer: expected.answer,
          finishReason: expected.finishReason,
        });
      }
    },
  );

  it('may be a conversation about the document', async () => {
    const compression = { method: 'none', keepRatio: 1, precision: 'f32' };
    const { record } = await engine.ingest(document, { request: { compression } });
    const [first, second] = questions.map(({ query }) => query);
    const turns: readonly ChatMessage[] = [
      { role: 'user', content: first ?? '' },
      { role: 'assistant', content: 'It does not say.' },
      { role: 'user', content: second ?? '' },
    ];
    const options = { turns, sampling: { maxTokens: 24 } };
    const expected = await engine.answer(record.id, options);
    const { answer } = await engine.answer('', { ...options, source: prompt(document) });
    expect(answer).toBe(expected.answer);
  });

  it('of a user who brings the document along is answered from it', async () => {
    const [question] = questions;
    const content = `${document}\n\n${question?.query}`;
    const options = { turns: [{ role: 'user', content } as const], sampling: { maxTokens: 48 } };
    const { answer } = await engine.answer('', { ...options, source: prompt() });
    expect(answer).toBe(question?.answer.trim());
  });
});

describe('a prompt', () => {
  const document = 'The lease of the mill was signed by Ada Finch on 4 May 1911, before witnesses.';
  const long = Array.from({ length: 12 }, () => document).join(' ');
  /** Every token is drawn from the whole distribution: an answer shows a small difference. */
  const sampling = { maxTokens: 12, temperature: 1, seed: 5 };
  let random: RandomCheckpoint;
  let engine: TestEngine;
  beforeAll(async () => {
    random = await randomCheckpoint();
    engine = await TestEngine.open({ checkpoint: random.checkpoint, sliceTokens: 32 });
  });
  afterAll(async () => {
    await engine.close();
    random.remove();
  });

  const options = { query: 'Who signed?', sampling };
  const ask = (source: QuerySource, other: AnswerOptions = {}) =>
    engine.answer('', { ...options, source, ...other });

  it('counts all of its tokens as computed, and nothing as stored', async () => {
    const { tokenizer, template } = random.checkpoint;
    const { usage, cache } = await ask(prompt(long));
    const documentTokens = tokenizer.encode(long).length;
    const suffix = template.turnIds([{ role: 'user', content: 'Who signed?' }]);
    const tokens = template.prefixIds(undefined).length + documentTokens + suffix.length;
    expect(tokens).toBeGreaterThan(3 * firstTokens);
    expect(usage).toEqual({
      contextTokens: documentTokens,
      queryTokens: tokens - documentTokens,
      prefilledTokens: tokens,
      completionTokens: 12,
    });
    expect(cache).toMatchObject({ source: 'none', keepRatio: 1, bytes: 0 });
  });

  it('without a document is an ordinary chat, however short', async () => {
    const { template } = random.checkpoint;
    const turns: readonly ChatMessage[] = [
      { role: 'user', content: 'Good morning.' },
      { role: 'assistant', content: 'And to you.' },
      { role: 'user', content: 'Who are you?' },
    ];
    for (const given of [turns.slice(0, 1), turns]) {
      const { answer, usage } = await ask(prompt(undefined, 'Be brief.'), { turns: given });
      const ids = template.chatIds([{ role: 'system', content: 'Be brief.' }, ...given]);
      expect(usage).toMatchObject({ contextTokens: 0, queryTokens: ids.length });
      expect(usage.prefilledTokens).toBe(ids.length);
      expect(answer).not.toBe('');
    }
    const [brief, plain] = [await ask(prompt(undefined, 'Be brief.')), await ask(prompt())];
    expect(brief.answer).not.toBe(plain.answer);
  });

  it('is answered as at once, however it is cut', async () => {
    const { tokenizer, template } = random.checkpoint;
    const { runtime } = engine;
    const turn = { role: 'user', content: 'Who signed?' } as const;
    let ids = concatenate(
      template.prefixIds(undefined),
      tokenizer.encode(long),
      template.turnIds([turn]),
    );
    const context = runtime.createContext(new Uint32Array(4));
    const parts = { context: context.view(context.lengths), tail: runtime.createTail() };
    const tokens: Uint8Array[] = [];
    for (let i = 0; i < 8; i++) {
      const [logits] = runtime.forward([{ ...parts, ids, startPosition: parts.tail.length }]);
      const token = defined(logits, 'logits').argmax();
      tokens.push(tokenizer.tokenBytes(token));
      ids = Int32Array.of(token);
    }
    parts.tail.close();
    const { answer } = await ask(prompt(long), { sampling: { maxTokens: 8 } });
    expect(answer).toBe(Buffer.concat(tokens).toString('utf8').trim());
  });

  it('is answered beside others as it is alone', async () => {
    const { record } = await engine.ingest(document);
    const asked = [prompt(long), prompt(document), prompt(), prompt(long)];
    const alone: string[] = [];
    for (const source of asked) alone.push((await ask(source)).answer);
    const ofContext = (await engine.answer(record.id, { sampling })).answer;
    const together = await Promise.all([
      ...asked.map((source) => ask(source)),
      engine.answer(record.id, { sampling }),
    ]);
    expect(together.map(({ answer }) => answer)).toEqual([...alone, ofContext]);
  });

  it('leaves nothing behind, whether it is answered, cancelled or refused', async () => {
    const before = engine.loaded.sizeBytes;
    const cancellation = new AbortController();
    await ask(prompt(long));
    const cancelled = await ask(prompt(long), {
      sampling: { ...sampling, maxTokens: 300 },
      onText: () => cancellation.abort(),
      signal: cancellation.signal,
    });
    expect(cancelled.finishReason).toBe('cancelled');
    const early = new AbortController();
    const reading = ask(prompt(long), { signal: early.signal });
    setImmediate(() => early.abort());
    await expect(reading).resolves.toMatchObject({ finishReason: 'cancelled', answer: '' });
    const tooLong = ask(prompt(document.repeat(60)));
    await expect(tooLong).rejects.toMatchObject({ code: 'context_too_long' });
    expect(engine.loaded.sizeBytes).toBe(before);
    expect(engine.scheduler.running).toBe(0);
  });

  describe('in a small memory', () => {
    let small: TestEngine;
    beforeAll(async () => {
      // 512 bytes a token: one long prompt with its answer.
      small = await TestEngine.open({ checkpoint: random.checkpoint, poolBytes: 200_000 });
    });
    afterAll(() => small.close());

    it('waits for others to end', async () => {
      const expected = await ask(prompt(long));
      const asked = [1, 2, 3].map(() => small.answer('', { ...options, source: prompt(long) }));
      const answers = (await Promise.all(asked)).map(({ answer }) => answer);
      expect(new Set(answers)).toEqual(new Set([expected.answer]));
    });

    it('is refused once it has waited too long', async () => {
      const held = small.loaded.borrow(300);
      const asked = small.answer('', { ...options, source: prompt(long), maxWaitMs: 50 });
      await expect(asked).rejects.toMatchObject({ code: 'overloaded' });
      small.loaded.release(held);
      expect(small.scheduler.running).toBe(0);
    });

    it('is refused at once if it never fits', async () => {
      const asked = small.answer('', { ...options, source: prompt(`${long} ${long}`) });
      await expect(asked).rejects.toMatchObject({ code: 'out_of_memory' });
      expect(small.scheduler.running).toBe(0);
    });
  });
});
