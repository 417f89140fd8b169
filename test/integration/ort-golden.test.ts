import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Budget } from '../../src/compression/budget.ts';
import { globalBudget } from '../../src/compression/budgets/global.ts';
import { defined } from '../../src/core/assert.ts';
import { contextTokens, type ContextRecord } from '../../src/core/context.ts';
import { headCount, type KvLayout } from '../../src/core/kv-layout.ts';
import { contextLengths } from '../../src/engine/context-rows.ts';
import { runPieces } from '../../src/runtime/run-pieces.ts';
import type { DenseCache } from '../../src/runtime/runtime.ts';
import { TestEngine } from '../support/engine.ts';
import {
  goldenDocument,
  goldenScores,
  readGolden,
  type GoldenQuestion,
} from '../support/golden.ts';
import { acquire } from '../support/loaded-contexts.ts';
import { embeddedCheckpoint } from '../support/models.ts';
import { forwardAlone, fullContext, request } from '../support/ragged.ts';

/*
 * The engine's own path (ingest, store, load, answer) against transformers. Both compute in float32
 * but add in another order, which goes through all layers. Seen: 5e-5 in logits of up to 30, 1e-5
 * in scores. The cache is stored in float32, all of it, so that nothing else differs.
 */
const tolerance = 1e-3;
/** Of logits after prefills of other chunks: one runtime, only matrix shapes differ. */
const chunkingTolerance = 1e-4;
/** Scores this close to the threshold may fall on either side of it. */
const thresholdTolerance = 1e-4;

const short = ['ops-runbook', 'wiki-observatory', 'medium'];

/** With `reader` the costly things are left out: scores of `long`, prefills of `medium`. */
const models = [
  { model: 'reader-mini', scored: [...short, 'long'], unscored: [], cut: 'medium' },
  { model: 'reader', scored: short, unscored: ['long'], cut: 'wiki-observatory' },
] as const;

describe.each(models)('$model by ONNX Runtime', ({ model, scored, unscored, cut }) => {
  const golden = readGolden(model);
  let engine: TestEngine;
  beforeAll(async () => {
    engine = await TestEngine.open({ checkpoint: await embeddedCheckpoint(model) });
  });
  afterAll(() => engine.close());

  const ingest = async (id: string, method: string): Promise<ContextRecord> => {
    const { document } = goldenDocument(golden, id);
    const compression = { method, keepRatio: 1, precision: 'f32' };
    return (await engine.ingest(document, { request: { compression } })).record;
  };

  describe.each(scored)('on %s', (id) => {
    const document = goldenDocument(golden, id);
    let record: ContextRecord;
    beforeAll(async () => {
      record = await ingest(id, 'kvzip');
    });

    it('has the token ids of transformers', () => {
      const { prefixIds, documentIds } = engine.store.tokenIds(record.id);
      expect([...prefixIds]).toEqual(golden.prefixIds);
      expect([...documentIds]).toEqual(document.documentIds);
    });

    it('has the logits and greedy answers of transformers at full cache', async () => {
      await expectAnswers(engine, record, document.questions);
    });

    it('has the KVzip scores of transformers', () => {
      const scores = storedScores(engine, record);
      const expected = goldenScores(model, document);
      expect(scores).toHaveLength(expected.length);
      expect(largestDifference(scores, expected)).toBeLessThanOrEqual(tolerance);
    });

    it.each([0.3, 0.2])('keeps the pairs of transformers at %d', (keepRatio) => {
      const scores = goldenScores(model, document);
      const expected = keptIndices(globalBudget, { scores, layout: record.layout, keepRatio });
      const threshold = least(scores, expected);
      const kept = loadedIndices(engine, record, keepRatio);
      expect(kept.size).toBe(expected.size);
      const differing = [
        ...[...expected].filter((index) => !kept.has(index)),
        ...[...kept].filter((index) => !expected.has(index)),
      ];
      for (const index of differing) {
        expect(Math.abs((scores[index] ?? NaN) - threshold)).toBeLessThanOrEqual(
          thresholdTolerance,
        );
      }
    });
  });

  it.each(unscored)('has the logits and greedy answers at full cache on %s', async (id) => {
    await expectAnswers(engine, await ingest(id, 'none'), goldenDocument(golden, id).questions);
  });

  it('gives the same logits however the prefill is cut', () => {
    const { documentIds, questions } = goldenDocument(golden, cut);
    const ids = Int32Array.from([...golden.prefixIds, ...documentIds]);
    const queryIds = Int32Array.from(defined(questions[0], 'a question').queryIds);
    const [whole, ...others] = [ids.length, 128, 64].map((chunkTokens) => {
      const dense = prefilled(engine, ids, chunkTokens);
      const cache = fullContext(engine.runtime, dense);
      const logits = forwardAlone(engine.runtime, request(engine.runtime, cache), {
        ids: queryIds,
        startPosition: dense.length,
      });
      dense.close();
      cache.close();
      return logits;
    });
    for (const logits of others) {
      const difference = largestDifference(logits, defined(whole, 'logits'));
      expect(difference).toBeLessThanOrEqual(chunkingTolerance);
    }
  });
});

async function expectAnswers(
  engine: TestEngine,
  record: ContextRecord,
  questions: readonly GoldenQuestion[],
): Promise<void> {
  for (const question of questions) {
    const logits = queryLogits(engine, record, question);
    const top = Float32Array.from(question.topIds, (id) => logits[id] ?? NaN);
    expect(largestDifference(top, question.topLogits)).toBeLessThanOrEqual(tolerance);
    const { query } = question;
    const answer = await engine.answer(record.id, { query, sampling: { maxTokens: 48 } });
    expect(answer.answer).toBe(question.answer.trim());
    expect(answer.usage.completionTokens).toBe(question.answerIds.length);
    expect(answer.usage.queryTokens).toBe(question.queryIds.length);
  }
}

/** Logits after the query, over the pairs as they are loaded from the store. */
function queryLogits(
  { loaded, runtime }: TestEngine,
  record: ContextRecord,
  { queryIds }: GoldenQuestion,
): Float32Array {
  const context = acquire(loaded, { record, keepRatio: 1, tailTokens: queryIds.length });
  const parts = { context: context.view, tail: runtime.createTail() };
  const logits = forwardAlone(runtime, parts, {
    ids: Int32Array.from(queryIds),
    startPosition: contextTokens(record),
  });
  loaded.release(context);
  return logits;
}

/** `[heads, tokens]` from rankings that list every token. */
function storedScores({ store }: TestEngine, record: ContextRecord): Float32Array {
  const { tokens } = record.document;
  const scores = new Float32Array(headCount(record.layout) * tokens);
  for (let head = 0; head < headCount(record.layout); head++) {
    const ranking = store.readRanking(record.id, head);
    for (const [rank, position] of ranking.positions.entries()) {
      scores[head * tokens + position] = ranking.scores[rank] ?? NaN;
    }
  }
  return scores;
}

/** Indices into `[heads, tokens]` of the pairs that a query at `keepRatio` would load. */
function loadedIndices(
  { store }: TestEngine,
  record: ContextRecord,
  keepRatio: number,
): Set<number> {
  const indices = new Set<number>();
  for (const [head, length] of contextLengths(store, record, keepRatio).entries()) {
    const { positions } = store.readRanking(record.id, head);
    for (const position of positions.subarray(0, length - record.prefixTokens)) {
      indices.add(head * record.document.tokens + position);
    }
  }
  return indices;
}

function keptIndices(
  budget: Budget,
  input: { readonly scores: Float32Array; readonly layout: KvLayout; readonly keepRatio: number },
): ReadonlySet<number> {
  const { scores, layout, keepRatio } = input;
  const { counts, positions } = budget.select(scores, layout, keepRatio);
  const tokens = scores.length / headCount(layout);
  let start = 0;
  const indices = Array.from(counts).flatMap((count, head) => {
    const ofHead = positions.subarray(start, (start += count));
    return Array.from(ofHead, (position) => head * tokens + position);
  });
  return new Set(indices);
}

function least(scores: Float32Array, indices: ReadonlySet<number>): number {
  let score = Infinity;
  for (const index of indices) score = Math.min(score, scores[index] ?? NaN);
  return score;
}

function prefilled({ runtime }: TestEngine, ids: Int32Array, chunkTokens: number): DenseCache {
  const dense = runtime.createDense(ids.length);
  for (let start = 0; start < ids.length; start += chunkTokens) {
    runPieces(runtime.prefill(dense, ids.subarray(start, start + chunkTokens)));
  }
  return dense;
}

function largestDifference(actual: Float32Array, expected: ArrayLike<number>): number {
  return actual.reduce(
    (most, value, i) => Math.max(most, Math.abs(value - (expected[i] ?? NaN))),
    0,
  );
}
