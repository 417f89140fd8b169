import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadHandWritten } from '../../eval/datasets.ts';
import { defined } from '../../src/core/assert.ts';
import type { ContextRecord } from '../../src/core/context.ts';
import { answer } from '../../src/engine/answer.ts';
import { LoadedContexts } from '../../src/engine/loaded-contexts.ts';
import type { EngineAnswer } from '../../src/engine/protocol.ts';
import type { ContextCache, Runtime } from '../../src/runtime/runtime.ts';
import { engineQuery, TestEngine } from '../support/engine.ts';
import { embeddedCheckpoint } from '../support/models.ts';

/*
 * The promise that an answer depends on the context, the question and the keepRatio alone: every
 * question of the hand-written documents, asked alone and in any company, from any tier.
 */

/** Enough to get past where answers begin alike. */
const maxTokens = 6;

interface Question {
  readonly record: ContextRecord;
  readonly query: string;
  readonly keepRatio: number;
}

let engine: TestEngine;
/** Document after document. */
let questions: readonly Question[];
/** What each question is answered when nothing else runs. */
let alone: readonly string[];

beforeAll(async () => {
  engine = await TestEngine.open({ checkpoint: await embeddedCheckpoint('reader-mini') });
  const asked: Question[] = [];
  for (const { document, questions: ofDocument } of loadHandWritten()) {
    const { record } = await engine.ingest(document);
    for (const [i, { question: query }] of ofDocument.entries()) {
      asked.push({ record, query, keepRatio: [0.3, 0.3, 0.2, 0.3, 0.1][i % 5] ?? 0.3 });
    }
  }
  questions = asked;
  alone = texts(await oneByOne(questions));
});
afterAll(() => engine.close());

function ask(
  { record, query, keepRatio }: Question,
  loaded: LoadedContexts = engine.loaded,
): Promise<EngineAnswer> {
  return answer(
    { ...engine.parts(), loaded },
    {
      query: engineQuery(record.id, { query, keepRatio, sampling: { maxTokens } }),
      onText: () => undefined,
      signal: new AbortController().signal,
    },
  );
}

async function oneByOne(
  asked: readonly Question[],
  loaded?: LoadedContexts,
): Promise<readonly EngineAnswer[]> {
  const answers: EngineAnswer[] = [];
  for (const question of asked) answers.push(await ask(question, loaded));
  return answers;
}

function texts(answers: readonly EngineAnswer[]): readonly string[] {
  return answers.map((each) => each.answer);
}

/** The numbers of the questions, neighbours of different documents. */
function acrossDocuments(): readonly number[] {
  const ofDocument = new Map<string, number[]>();
  for (const [i, { record }] of questions.entries()) {
    const numbers = ofDocument.get(record.id) ?? [];
    ofDocument.set(record.id, [...numbers, i]);
  }
  const lists = [...ofDocument.values()];
  const most = Math.max(...lists.map(({ length }) => length));
  return Array.from({ length: most }, (_, turn) =>
    lists.flatMap((numbers) => numbers.slice(turn, turn + 1)),
  ).flat();
}

function at<T>(list: readonly T[], numbers: readonly number[]): readonly T[] {
  return numbers.map((number) => defined(list[number], `item ${number}`));
}

/** A pool that holds two or three contexts and the tails of a few queries, and what befalls it. */
function smallPool() {
  const counts = { made: 0, resized: 0 };
  const runtime = new Proxy<Runtime>(engine.runtime, {
    get(target, name) {
      if (name !== 'createContext') return Reflect.get(target, name) as unknown;
      return (lengths: Uint32Array): ContextCache => {
        const cache = target.createContext(lengths);
        const resize = cache.resize.bind(cache);
        counts.made++;
        const counting = (other: Uint32Array): void => {
          counts.resized++;
          resize(other);
        };
        return Object.assign(cache, { resize: counting });
      };
    },
  });
  const { headDim } = engine.runtime.layout;
  const sizes = questions.map(
    ({ record }) => record.pairCounts.reduce((sum, count) => sum + count, 0) * headDim * 8,
  );
  const tokenBytes = 8 * headDim * (questions[0]?.record.pairCounts.length ?? 0);
  const poolBytes = 2.5 * Math.max(...sizes) + 200 * tokenBytes;
  return {
    counts,
    poolBytes,
    loaded: new LoadedContexts({ store: engine.store, runtime, poolBytes }),
  };
}

describe('the questions of the hand-written documents', () => {
  it('have answers of their own', () => {
    expect(questions.length).toBe(50);
    expect(new Set(alone).size).toBeGreaterThan(25);
  });

  it('are answered alike 16 at a time, neighbours on one context', async () => {
    const together = await Promise.all(questions.map((question) => ask(question)));
    expect(texts(together)).toEqual(alone);
  });

  it('are answered alike 16 at a time, neighbours on different contexts', async () => {
    const order = acrossDocuments();
    const together = await Promise.all(at(questions, order).map((question) => ask(question)));
    expect(texts(together)).toEqual(at(alone, order));
  });

  it('are answered alike from disk, 16 at a time', async () => {
    await engine.restart();
    const order = acrossDocuments().toReversed();
    const together = await Promise.all(at(questions, order).map((question) => ask(question)));
    expect(texts(together)).toEqual(at(alone, order));
    expect(together.filter(({ cache }) => cache.source === 'disk').length).toBeGreaterThan(9);
  });

  it('are answered alike while memory is short, one after another', async () => {
    const { loaded, counts, poolBytes } = smallPool();
    const order = acrossDocuments();
    const answers = await oneByOne(at(questions, order), loaded);
    expect(texts(answers)).toEqual(at(alone, order));
    // Contexts were dropped and read again, and others shortened.
    expect(counts.made).toBeGreaterThan(20);
    expect(counts.resized).toBeGreaterThan(10);
    expect(loaded.sizeBytes).toBeLessThanOrEqual(poolBytes);
    loaded.close();
  });

  it('are answered alike while memory is short, 16 at a time', async () => {
    const { loaded, counts, poolBytes } = smallPool();
    const order = acrossDocuments();
    const asked = at(questions, order).map((question) => ask(question, loaded));
    expect(texts(await Promise.all(asked))).toEqual(at(alone, order));
    expect(counts.made).toBeGreaterThan(10);
    expect(loaded.sizeBytes).toBeLessThanOrEqual(poolBytes);
    loaded.close();
  });

  it('are answered alike while a document is ingested', async () => {
    const [first] = loadHandWritten();
    const request = { compression: { keepRatio: 1, method: 'kvzip' } };
    const document = `${first?.document} ${first?.document}`;
    const [together] = await Promise.all([
      Promise.all(questions.slice(0, 20).map((question) => ask(question))),
      engine.ingest(document, { request }),
    ]);
    expect(texts(together)).toEqual(alone.slice(0, 20));
  });
});
