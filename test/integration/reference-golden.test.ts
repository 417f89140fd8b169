import { beforeAll, describe, expect, it } from 'vitest';
import { defined } from '../../src/core/assert.ts';
import { headCount } from '../../src/core/kv-layout.ts';
import type { Checkpoint } from '../../src/model/checkpoint.ts';
import { createReferenceRuntime } from '../../src/runtime/reference/reference-runtime.ts';
import { runPieces } from '../../src/runtime/run-pieces.ts';
import type { DenseCache, Runtime } from '../../src/runtime/runtime.ts';
import { goldenDocument, goldenScores, readGolden } from '../support/golden.ts';
import { embeddedCheckpoint } from '../support/models.ts';
import { fullContext, request } from '../support/ragged.ts';

// The golden numbers are transformers' in float32, the reference's are float64: what differs is
// float32 rounding through eight layers. Seen: 2e-5 in logits of up to 16, 2e-6 in scores.
const tolerance = 1e-3;

const golden = readGolden('reader-mini');
let checkpoint: Checkpoint;
let runtime: Runtime;

beforeAll(async () => {
  checkpoint = await embeddedCheckpoint('reader-mini');
  runtime = createReferenceRuntime(checkpoint);
});

describe.each(['ops-runbook', 'wiki-observatory'])('the reference runtime on %s', (id) => {
  const document = goldenDocument(golden, id);
  const documentEnd = golden.prefixIds.length + document.documentIds.length;
  let dense: DenseCache;
  beforeAll(() => {
    dense = runtime.createDense(documentEnd + document.documentIds.length + 64);
    const ids = Int32Array.from([...golden.prefixIds, ...document.documentIds]);
    runPieces(runtime.prefill(dense, ids));
  });
  it('has the logits and greedy answers of transformers at full cache', () => {
    const { context, tail } = request(runtime, fullContext(runtime, dense));
    for (const question of document.questions) {
      tail.truncate(0);
      const ids = Int32Array.from(question.queryIds);
      const slot = { context, tail, ids, startPosition: documentEnd };
      let logits = defined(runtime.forward([slot])[0], 'logits');
      const values = logits.values();
      const top = question.topIds.map((token) => values[token] ?? NaN);
      question.topLogits.forEach((expected, i) => {
        expect(Math.abs((top[i] ?? NaN) - expected)).toBeLessThanOrEqual(tolerance);
      });
      const answer: number[] = [];
      for (;;) {
        const token = logits.argmax();
        if (runtime.config.endTokenIds.includes(token) || answer.length === 48) break;
        answer.push(token);
        const startPosition = documentEnd + tail.length;
        const next = { context, tail, ids: Int32Array.of(token), startPosition };
        logits = defined(runtime.forward([next])[0], 'logits');
      }
      expect(answer).toEqual(question.answerIds);
    }
  });

  it('has the KVzip scores of transformers, and repeats the document as often', () => {
    const prompt = [
      ...checkpoint.tokenizer.encode('\n\nRepeat the previous context exactly.'),
      ...golden.suffixIds,
    ];
    const scores = new Float32Array(headCount(runtime.layout) * document.documentIds.length);
    const ids = Int32Array.from([...prompt, ...document.documentIds]);
    const predictions = new Int32Array(ids.length);
    const pass = {
      ids,
      sinkEnd: golden.prefixIds.length,
      chunkStart: golden.prefixIds.length,
      chunkEnd: documentEnd,
      passStart: documentEnd,
      scores,
      predictions,
    };
    runPieces(runtime.score(dense, pass));
    const expected = goldenScores('reader-mini', document);
    expect(scores).toHaveLength(expected.length);
    const differences = scores.map((score, i) => Math.abs(score - (expected[i] ?? NaN)));
    expect(Math.max(...differences)).toBeLessThanOrEqual(tolerance);
    const repeated = document.documentIds.filter(
      (token, i) => predictions[prompt.length - 1 + i] === token,
    );
    expect(repeated.length / document.documentIds.length).toBe(document.reconstruction);
  });
});
