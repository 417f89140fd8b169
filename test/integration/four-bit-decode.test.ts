import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { StoredContext } from '../../src/core/context.ts';
import { loadCheckpoint } from '../../src/model/load.ts';
import { TestEngine } from '../support/engine.ts';
import { goldenDocument, readGolden } from '../support/golden.ts';
import { modelCache } from '../support/models.ts';

/*
 * The golden answers are those of the float32 values. The blocks differ from them by the rounding
 * to f16 that made the float32 values, which moves logits by 1e-2 or 2e-2: answers are the same
 * only where nothing is closer than that, as in these.
 */
describe('reader decoding by its own four-bit blocks', () => {
  const golden = readGolden('reader');
  const { document, questions } = goldenDocument(golden, 'ops-runbook');
  let engine: TestEngine;
  let stored: StoredContext;
  beforeAll(async () => {
    const options = { model: 'reader', cacheFolder: modelCache, decodeWeights: 'q4' } as const;
    engine = await TestEngine.open({ checkpoint: await loadCheckpoint(options) });
    const compression = { method: 'none', keepRatio: 1, precision: 'f32' };
    stored = await engine.ingest(document, { request: { compression } });
  });
  afterAll(() => engine.close());

  const ask = async (query: string): Promise<string> =>
    (await engine.answer(stored.record.id, { query, sampling: { maxTokens: 48 } })).answer;

  it('gives the answers of float32', async () => {
    for (const { query, answer } of questions) expect(await ask(query)).toBe(answer.trim());
  });

  it('gives the same answers to questions asked together', async () => {
    const together = await Promise.all(questions.map(({ query }) => ask(query)));
    expect(together).toEqual(questions.map(({ answer }) => answer.trim()));
  });
});
