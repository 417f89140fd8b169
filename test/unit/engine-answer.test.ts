import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { defined } from '../../src/core/assert.ts';
import { contextTokens, type ContextRecord } from '../../src/core/context.ts';
import type { LoadedContext } from '../../src/engine/loaded-context.ts';
import type { EngineAnswer, SamplingOptions } from '../../src/engine/protocol.ts';
import type { Checkpoint } from '../../src/model/checkpoint.ts';
import { firstTokens } from '../../src/runtime/runtime.ts';
import { TestEngine, type AnswerOptions } from '../support/engine.ts';
import { acquire } from '../support/loaded-contexts.ts';
import { randomCheckpoint, type RandomCheckpoint } from '../support/random-checkpoint.ts';

const lease = 'The lease of the mill was signed by Ada Finch on 4 May 1911, before two witnesses.';
const orchard = 'The orchard has 312 trees: 200 of them bear apples, the others pears and plums.';

let random: RandomCheckpoint;
let engine: TestEngine;
let record: ContextRecord;
let other: ContextRecord;

beforeAll(async () => {
  random = await randomCheckpoint();
  engine = await TestEngine.open({ checkpoint: random.checkpoint, sliceTokens: 16 });
  const request = { compression: { keepRatio: 0.6 } };
  record = (await engine.ingest(lease, { request })).record;
  other = (await engine.ingest(orchard, { request })).record;
});
afterAll(async () => {
  await engine.close();
  random.remove();
});

/**
 * Every token is drawn from the whole distribution, so that an answer shows a small difference in
 * the logits that a greedy one would hide.
 */
const sensitive = { maxTokens: 24, temperature: 1, seed: 5 };

/** What of an answer must not depend on anything but context, query and options. */
function essence({ answer, finishReason, usage }: EngineAnswer) {
  return { answer, finishReason, usage };
}

/** The model, but for ending answers with other tokens. */
function endingWith(...endTokenIds: readonly number[]): Checkpoint {
  const { checkpoint } = random;
  return { ...checkpoint, config: { ...checkpoint.config, endTokenIds } };
}

describe('an answer', () => {
  it('is told piece by piece as it comes', async () => {
    const pieces: string[] = [];
    const answer = await engine.answer(record.id, { onText: (text) => pieces.push(text) });
    expect(pieces.length).toBeGreaterThan(1);
    expect(pieces.join('')).toBe(answer.answer);
    expect(answer.answer.trim()).toBe(answer.answer);
  });

  it('counts what was computed for it, never the document', async () => {
    const query = 'Who signed?';
    const { usage } = await engine.answer(record.id, { query, sampling: { maxTokens: 5 } });
    const { tokenizer, template } = random.checkpoint;
    const queryTokens = tokenizer.encode(`\n\n${query}`).length + template.suffixIds.length;
    expect(usage).toEqual({
      contextTokens: tokenizer.encode(lease).length,
      queryTokens,
      prefilledTokens: queryTokens,
      completionTokens: 5,
    });
  });

  it('says what of the cache it used, and where that was', async () => {
    await engine.restart();
    const pairs = record.pairCounts.reduce((sum, count) => sum + count, 0);
    const cache = { keepRatio: 0.6, pairs, bytes: pairs * 2 * 16 * 2 };
    const first = await engine.answer(record.id);
    expect(first.cache).toEqual({ ...cache, source: 'disk' });
    const second = await engine.answer(record.id);
    expect(second.cache).toEqual({ ...cache, source: 'host' });
    expect(essence(second)).toEqual(essence(first));
  });

  it('is the same after the engine and the store were started again', async () => {
    const before = await engine.answer(record.id, { sampling: sensitive });
    await engine.restart();
    const after = await engine.answer(record.id, { sampling: sensitive });
    expect(essence(after)).toEqual(essence(before));
  });

  it('to a question that is computed in pieces is as if it were computed at once', async () => {
    const query = `Who signed ${'the lease of the mill or '.repeat(30)}the other lease?`;
    const { tokenizer } = random.checkpoint;
    const { answer, usage } = await engine.answer(record.id, { query });
    expect(usage.queryTokens).toBeGreaterThan(3 * firstTokens);
    expect(usage.prefilledTokens).toBe(usage.queryTokens);
    const bytes = greedyTokens(8, query).map((id) => tokenizer.tokenBytes(id));
    expect(answer).toBe(Buffer.concat(bytes).toString('utf8').trim());
  });

  it('depends on the context and on the query', async () => {
    const answers = [
      await engine.answer(record.id, { query: 'Who signed?' }),
      await engine.answer(record.id, { query: 'What was signed?' }),
      await engine.answer(other.id, { query: 'Who signed?' }),
    ];
    expect(new Set(answers.map(({ answer }) => answer)).size).toBe(3);
  });

  it('that is sampled follows its seed', async () => {
    const sampled = async (seed: number) =>
      (await engine.answer(record.id, { sampling: { temperature: 1, seed } })).answer;
    expect(await sampled(7)).toBe(await sampled(7));
    expect(await sampled(8)).not.toBe(await sampled(7));
  });
});

describe('an answer ends', () => {
  it('at maxTokens', async () => {
    const { finishReason, usage } = await engine.answer(record.id, { sampling: { maxTokens: 3 } });
    expect(finishReason).toBe('length');
    expect(usage.completionTokens).toBe(3);
  });

  it('before a stop string', async () => {
    const whole = (await engine.answer(record.id)).answer;
    const stop = whole.slice(4, 7);
    const answer = await engine.answer(record.id, { sampling: { stop: ['never', stop] } });
    expect(answer.finishReason).toBe('stop');
    expect(answer.answer).toBe(whole.slice(0, whole.indexOf(stop)).trimEnd());
  });

  it('with an end token, which is not counted', async () => {
    const tokens = greedyTokens(8);
    // Of those that come up, the one that comes up last.
    const end = [...new Set(tokens)].at(-1) ?? 0;
    expect(tokens.indexOf(end)).toBeGreaterThan(0);
    const answer = await engine.answer(record.id, { checkpoint: endingWith(end) });
    expect(answer.finishReason).toBe('stop');
    expect(answer.usage.completionTokens).toBe(tokens.indexOf(end));
    const checkpoint = endingWith(tokens[0] ?? 0);
    const first = await engine.answer(record.id, { checkpoint });
    expect(essence(first)).toMatchObject({ answer: '', finishReason: 'stop' });
    expect(first.usage.completionTokens).toBe(0);
  });
});

/** The first tokens of the greedy answer, from calls of their own. */
function greedyTokens(count: number, query = 'What is it about?'): readonly number[] {
  const { runtime, loaded } = engine;
  const loadedContext = acquire(loaded, { record, keepRatio: 0.6, tailTokens: 500 });
  const [context, tail] = [loadedContext.view, runtime.createTail()];
  const { tokenizer, template } = random.checkpoint;
  const tokens: number[] = [];
  let ids = Int32Array.of(...tokenizer.encode(`\n\n${query}`), ...template.suffixIds);
  let startPosition = contextTokens(record);
  while (tokens.length < count) {
    const slot = { context, tail, ids, startPosition };
    const [logits] = runtime.forward([slot]);
    startPosition += ids.length;
    tokens.push(defined(logits, 'logits').argmax());
    ids = Int32Array.of(tokens.at(-1) ?? 0);
  }
  tail.close();
  loaded.release(loadedContext);
  return tokens;
}

describe('a query at a smaller keepRatio', () => {
  it.each(['global', 'uniform'])('is answered as from a context made so: %s', async (budget) => {
    const stored = await engine.ingest(lease, {
      request: { compression: { keepRatio: 1, budget } },
    });
    for (const keepRatio of [0.6, 0.3, 0.1]) {
      const compression = { keepRatio, budget };
      const fresh = (await engine.ingest(lease, { request: { compression } })).record;
      const expected = await engine.answer(fresh.id, { sampling: sensitive });
      const answer = await engine.answer(stored.record.id, { keepRatio, sampling: sensitive });
      expect(essence(answer)).toEqual(essence(expected));
      expect({ ...answer.cache, source: '' }).toEqual({ ...expected.cache, source: '' });
    }
  });

  it('cannot ask for less of a context whose pairs were not scored', async () => {
    const request = { compression: { method: 'none', keepRatio: 1 } };
    const whole = (await engine.ingest(lease, { request })).record;
    await expect(engine.answer(whole.id, { keepRatio: 0.5 })).rejects.toMatchObject({
      code: 'invalid_argument',
    });
    const answer = await engine.answer(whole.id, { keepRatio: 1 });
    expect(answer.cache.keepRatio).toBe(1);
  });

  it('cannot ask for more than was stored', async () => {
    await expect(engine.answer(record.id, { keepRatio: 0.61 })).rejects.toMatchObject({
      code: 'invalid_argument',
      message: expect.stringMatching(/at most 0\.6\b.*but got 0\.61/) as string,
      details: { keepRatio: 0.61, storedKeepRatio: 0.6 },
    });
  });
});

describe('a query is refused', () => {
  it('if it does not fit the window with its context and maxTokens', async () => {
    const { tokenizer, template, config } = random.checkpoint;
    const query = 'Who signed?';
    const queryTokens = tokenizer.encode(`\n\n${query}`).length + template.suffixIds.length;
    const room = config.contextLength - contextTokens(record) - queryTokens;
    const signal = AbortSignal.abort();
    const fits = engine.answer(record.id, { query, sampling: { maxTokens: room }, signal });
    await expect(fits).resolves.toMatchObject({ finishReason: 'cancelled' });
    const tooLong = engine.answer(record.id, { query, sampling: { maxTokens: room + 1 } });
    await expect(tooLong).rejects.toMatchObject({
      code: 'context_too_long',
      message: expect.stringContaining(
        `1024 tokens of random but got ${contextTokens(record)} + ${queryTokens} + ${room + 1}`,
      ) as string,
      details: {
        contextTokens: contextTokens(record),
        queryTokens,
        maxTokens: room + 1,
        window: 1024,
      },
    });
  });

  it('if it is far too long, before it is tokenised', async () => {
    await expect(engine.answer(record.id, { query: 'x'.repeat(5e6) })).rejects.toMatchObject({
      code: 'context_too_long',
      message: expect.stringMatching(/\+ at least 312500 \+ 8/) as string,
    });
  });

  it('if it has more tokens than a call has arguments', async () => {
    const query = 'q '.repeat(7000);
    await expect(engine.answer(record.id, { query })).rejects.toMatchObject({
      code: 'context_too_long',
    });
  });

  it('if its context is not there, or of another model', async () => {
    const id = `ctx_${'0'.repeat(40)}`;
    await expect(engine.answer(id)).rejects.toMatchObject({ code: 'not_found' });
    const checkpoint = { ...random.checkpoint, fingerprint: 'sha256:other' };
    const elsewhere = engine.answer(record.id, { checkpoint });
    await expect(elsewhere).rejects.toMatchObject({ code: 'identity_mismatch' });
  });
});

describe('queries at once', () => {
  const asked: readonly Partial<SamplingOptions>[] = [
    { maxTokens: 12 },
    { maxTokens: 5 },
    { maxTokens: 9, temperature: 0.8, seed: 3 },
  ];
  const all = (): readonly [string, AnswerOptions][] =>
    [record.id, other.id].flatMap((id) =>
      asked.map((sampling, i): [string, AnswerOptions] => {
        const query = `Question ${'again '.repeat(i * 9)}?`;
        return [id, { query, sampling }];
      }),
    );

  it('on the same and on different contexts are answered as each alone', async () => {
    const alone: EngineAnswer[] = [];
    for (const [id, options] of all()) alone.push(await engine.answer(id, options));
    const together = await Promise.all(all().map(([id, options]) => engine.answer(id, options)));
    expect(together.map(essence)).toEqual(alone.map(essence));
  });

  it('at different ratios of one context are answered as each alone', async () => {
    const ratios = [0.6, 0.3, 0.6, 0.1];
    const ask = (keepRatio: number) => engine.answer(record.id, { keepRatio });
    const alone: EngineAnswer[] = [];
    for (const keepRatio of ratios) alone.push(await ask(keepRatio));
    const together = await Promise.all(ratios.map(ask));
    expect(together.map(essence)).toEqual(alone.map(essence));
    expect(new Set(alone.map(({ answer }) => answer)).size).toBeGreaterThan(1);
    expect(together.map(({ cache }) => cache.source)).toEqual(['host', 'host', 'host', 'host']);
  });
});

describe('queries that find no room in memory', () => {
  /** Of two contexts, memory holds one with the tail of one query. */
  let small: TestEngine;
  let records: readonly ContextRecord[];
  beforeAll(async () => {
    const request = { compression: { keepRatio: 0.6 } };
    const { checkpoint } = random;
    const heads = record.pairCounts.length;
    const rows = Math.max(...[record, other].map(({ pairCounts }) => total(pairCounts)));
    const poolBytes = (rows + heads * 40) * 2 * 16 * Float32Array.BYTES_PER_ELEMENT;
    small = await TestEngine.open({ checkpoint, poolBytes });
    const stored = [
      await small.ingest(lease, { request }),
      await small.ingest(orchard, { request }),
    ];
    records = stored.map((context) => context.record);
  });
  afterAll(() => small.close());

  const idOf = (context: number): string => records[context]?.id ?? '';
  /** Fills the memory, as a query on the first context does. */
  const hold = (): LoadedContext =>
    acquire(small.loaded, { record: records[0] ?? record, keepRatio: 0.6, tailTokens: 39 });

  it('wait for others to end, and are answered as ever', async () => {
    const asked = [0, 1, 0, 1, 1, 0].map((context) => idOf(context));
    const options = { query: 'Who?', sampling: sensitive };
    const alone: EngineAnswer[] = [];
    for (const id of asked) alone.push(await engine.answer(id, options));
    const together = await Promise.all(asked.map((id) => small.answer(id, options)));
    expect(together.map(essence)).toEqual(alone.map(essence));
  });

  it('are refused once they have waited too long, and leave nothing behind', async () => {
    const held = hold();
    const asked = small.answer(idOf(1), { query: 'Who?', maxWaitMs: 50 });
    await expect(asked).rejects.toMatchObject({ code: 'overloaded', retryAfterSeconds: 1 });
    expect(small.scheduler.running).toBe(0);
    small.loaded.release(held);
    await expect(small.answer(idOf(1), { query: 'Who?' })).resolves.toMatchObject({
      finishReason: 'length',
    });
  });

  it('may be cancelled while they wait', async () => {
    const held = hold();
    const cancellation = new AbortController();
    const asked = small.answer(idOf(1), { query: 'Who?', signal: cancellation.signal });
    setTimeout(() => cancellation.abort(), 20);
    await expect(asked).resolves.toMatchObject({ finishReason: 'cancelled', answer: '' });
    small.loaded.release(held);
    expect(small.scheduler.running).toBe(0);
  });
});

function total(counts: readonly number[]): number {
  return counts.reduce((sum, count) => sum + count, 0);
}

describe('a cancelled query', () => {
  let cancellation: AbortController;
  beforeEach(() => {
    cancellation = new AbortController();
  });

  it('says what it had answered, and frees the context', async () => {
    const expected = await engine.answer(record.id, { sampling: { maxTokens: 20 } });
    const cancelled = await engine.answer(record.id, {
      sampling: { maxTokens: 500 },
      onText: () => cancellation.abort(),
      signal: cancellation.signal,
    });
    expect(cancelled.finishReason).toBe('cancelled');
    expect(cancelled.answer.length).toBeGreaterThan(0);
    expect(expected.answer.startsWith(cancelled.answer)).toBe(true);
    const next = await engine.answer(record.id, { sampling: { maxTokens: 20 } });
    expect(essence(next)).toEqual(essence(expected));
  });

  it('need not wait for the others', async () => {
    const order: string[] = [];
    const first = engine
      .answer(record.id, { sampling: { maxTokens: 20 } })
      .then(() => order.push('first'));
    const second = engine
      .answer(record.id, { signal: cancellation.signal })
      .then(({ finishReason }) => order.push(finishReason));
    cancellation.abort();
    await Promise.all([first, second]);
    expect(order).toEqual(['cancelled', 'first']);
  });

  it('that had not begun has used nothing', async () => {
    cancellation.abort();
    const answer = await engine.answer(record.id, { signal: cancellation.signal });
    expect(answer).toMatchObject({ answer: '', finishReason: 'cancelled', cache: { pairs: 0 } });
    expect(answer.usage.completionTokens).toBe(0);
  });
});
