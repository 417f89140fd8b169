import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { globalBudget } from '../../src/compression/budgets/global.ts';
import { f32 } from '../../src/compression/precision/f32.ts';
import { reconstructionPasses } from '../../src/compression/reconstruction.ts';
import { defined } from '../../src/core/assert.ts';
import { concatenate } from '../../src/core/concatenate.ts';
import { headCount } from '../../src/core/kv-layout.ts';
import type { Checkpoint } from '../../src/model/checkpoint.ts';
import { createOrtCpuRuntime } from '../../src/runtime/ort/cpu-runtime.ts';
import { createReferenceRuntime } from '../../src/runtime/reference/reference-runtime.ts';
import { runPieces } from '../../src/runtime/run-pieces.ts';
import type { DenseCache, Runtime } from '../../src/runtime/runtime.ts';
import { expectClose, headsOf } from '../contract/runtime/subject.ts';
import { embeddedCheckpoint } from '../support/models.ts';
import { forwardAlone, fullContext, request } from '../support/ragged.ts';

// ONNX Runtime computes in float32, the reference in float64: what differs is float32 rounding,
// which grows with depth and with the size of the numbers.
const tolerances = {
  // Logits are up to 20. Seen: 2e-5.
  logits: 2e-4,
  // Keys are up to 64. Seen: 4e-5.
  rows: 2e-4,
  // In (0, 1]. Seen: 2e-6.
  scores: 2e-5,
};

const document =
  'The observatory on Denby ridge opened to the public on 4 May 1911, nearly three years after ' +
  'Ada Finch laid the first stone; its lens, ground by hand in Sheffield, is 60 cm wide.';
const query = '\n\nWho laid the first stone?';

/** `reader` in float64 takes a minute, so its first two layers stand for it. */
describe.each([
  { model: 'reader-mini', layers: 8 },
  { model: 'reader', layers: 2 },
] as const)('$layers layers of $model', ({ model, layers }) => {
  let checkpoint: Checkpoint;
  let ids: Int32Array;
  let queryIds: Int32Array;
  let subjects: readonly Subject[];
  beforeAll(async () => {
    const whole = await embeddedCheckpoint(model);
    checkpoint = { ...whole, config: { ...whole.config, layers } };
    const { tokenizer, template } = checkpoint;
    ids = concatenate(template.prefixIds(undefined), tokenizer.encode(document));
    queryIds = concatenate(tokenizer.encode(query), template.suffixIds);
    subjects = [
      createReferenceRuntime(whole, { layers }),
      createOrtCpuRuntime(checkpoint, { threads: 2 }),
    ].map((runtime) => run(runtime, checkpoint, ids));
  });
  afterAll(() => {
    for (const { runtime } of subjects) runtime.close();
  });

  it('have the keys and values of the reference', () => {
    const [expected, actual] = subjects.map(({ runtime, dense }) =>
      headsOf(runtime, dense).flatMap(({ keys, values }) => [keys.flat(), values.flat()]),
    );
    for (const [i, rows] of (expected ?? []).entries()) {
      expectClose(actual?.[i], rows, tolerances.rows);
    }
  });

  it('have the logits of the reference at full cache', () => {
    const [expected, actual] = subjects.map(({ runtime, dense }) => {
      const parts = request(runtime, fullContext(runtime, dense));
      return forwardAlone(runtime, parts, { ids: queryIds, startPosition: ids.length });
    });
    expectClose(actual, expected ?? [], tolerances.logits);
  });

  it('have the scores and predictions of the reference', () => {
    const [expected, actual] = subjects.map(({ scored }) => scored);
    expectClose(actual?.scores, expected?.scores ?? [], tolerances.scores);
    expect(actual?.predictions).toEqual(expected?.predictions);
  });

  it('have the logits of the reference over the pairs kept at 0.3', () => {
    const prefixTokens = checkpoint.template.prefixIds(undefined).length;
    const { runtime: reference, scored } = defined(subjects[0], 'the reference');
    const { counts, positions } = globalBudget.select(scored.scores, reference.layout, 0.3);
    expect(new Set(counts).size).toBeGreaterThan(1);
    const [expected, actual] = subjects.map(({ runtime, dense }) => {
      const lengths = counts.map((count) => prefixTokens + count);
      const cache = runtime.createContext(lengths);
      let start = 0;
      for (const [head, count] of counts.entries()) {
        const kept = positions.subarray(start, (start += count));
        const rows = [...Array(prefixTokens).keys(), ...kept.map((at) => prefixTokens + at)];
        cache.write(head, 0, dense.pairs(head, Uint32Array.from(rows), f32), f32);
      }
      const parts = request(runtime, cache);
      return forwardAlone(runtime, parts, { ids: queryIds, startPosition: ids.length });
    });
    expectClose(actual, expected ?? [], tolerances.logits);
  });
});

interface Scored {
  readonly scores: Float32Array;
  readonly predictions: Int32Array;
}

interface Subject {
  readonly runtime: Runtime;
  /** Prefix and document. */
  readonly dense: DenseCache;
  readonly scored: Scored;
}

function run(runtime: Runtime, checkpoint: Checkpoint, ids: Int32Array): Subject {
  const dense = runtime.createDense(2 * ids.length + 32);
  runPieces(runtime.prefill(dense, ids));
  return { runtime, dense, scored: score(runtime, checkpoint, dense) };
}

/** The whole document as one reconstruction pass; the cache is as before afterwards. */
function score(
  runtime: Runtime,
  { template, tokenizer, config }: Checkpoint,
  dense: DenseCache,
): Scored {
  const prefixTokens = template.prefixIds(undefined).length;
  const documentIds = tokenizer.encode(document);
  const passes = reconstructionPasses({
    layout: runtime.layout,
    prefixTokens,
    documentIds,
    suffixIds: template.suffixIds,
    contextLength: config.contextLength,
    encode: (text) => tokenizer.encode(text),
  });
  const pass = defined(passes[0], 'a pass');
  const passStart = dense.length;
  const scores = new Float32Array(headCount(runtime.layout) * documentIds.length);
  const ids = concatenate(pass.promptIds, documentIds);
  const predictions = new Int32Array(ids.length);
  const bounds = {
    sinkEnd: prefixTokens,
    chunkStart: prefixTokens,
    chunkEnd: passStart,
    passStart,
  };
  runPieces(runtime.score(dense, { ids, ...bounds, scores, predictions }));
  dense.truncate(passStart);
  return { scores, predictions };
}
