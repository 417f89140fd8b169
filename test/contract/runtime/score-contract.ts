import { expect, it } from 'vitest';
import { AssertionError } from '../../../src/core/assert.ts';
import { headCount } from '../../../src/core/kv-layout.ts';
import { runPieces } from '../../../src/runtime/run-pieces.ts';
import type { DenseCache, ScoreSlice } from '../../../src/runtime/runtime.ts';
import { at } from '../../support/naive-decoder.ts';
import type { NaiveRun } from '../../support/naive-decoder.ts';
import { naiveScores } from '../../support/naive-scores.ts';
import { cut, expectClose, headsOf, tokens } from './subject.ts';
import type { Subject } from './subject.ts';

const pass = { document: 40, sinkEnd: 5, chunkStart: 17, chunkEnd: 31, tokens: 22 } as const;

/** Reconstruction passes. */
export function scoreContract(subject: () => Subject): void {
  scoreValues(subject);
  scoreEffects(subject);
}

function scoreValues(subject: () => Subject): void {
  it('scores chunk keys by the largest attention among sinks, chunk and own keys', () => {
    const { runtime, model, tolerances } = subject();
    const scores = emptyScores(subject());
    runPieces(runtime.score(dense(subject()), slice(passIds(subject()), scores)));
    const expected = naiveScores(naiveRun(subject()), model.config, pass);
    expectClose(scores, expected, tolerances.scores);
  });

  it('gives the same scores and predictions however the pass is cut', () => {
    const { runtime, model, tolerances } = subject();
    const expected = naiveRun(subject());
    const expectedScores = naiveScores(expected, model.config, pass);
    for (const sizes of [
      [22],
      [1, 20, 1],
      [8, 14],
      [21, 1],
      Array.from(passIds(subject()), () => 1),
    ]) {
      const cache = dense(subject());
      const scores = emptyScores(subject());
      const predictions = cut(passIds(subject()), sizes).flatMap((ids) => {
        const ofSlice = new Int32Array(ids.length);
        runPieces(runtime.score(cache, { ...slice(ids, scores), predictions: ofSlice }));
        return Array.from(ofSlice);
      });
      expectClose(scores, expectedScores, tolerances.scores);
      expect(predictions).toHaveLength(pass.tokens);
      predictions.forEach((id, token) => {
        const logits = at(expected.logits, pass.document + token);
        // Random models have near ties: the predicted token must be the best one within tolerance.
        expect(Math.max(...logits) - at(logits, id)).toBeLessThanOrEqual(tolerances.logits);
      });
    }
  });

  it('works without sinks and on the last chunk', () => {
    const { runtime, model, tolerances } = subject();
    const range = { document: 40, sinkEnd: 0, chunkStart: 33, chunkEnd: 40, tokens: 22 };
    const scores = new Float32Array(headCount(runtime.layout) * 7);
    const input = { ...slice(passIds(subject()), scores), ...range };
    runPieces(runtime.score(dense(subject()), input));
    const expected = naiveScores(naiveRun(subject()), model.config, range);
    expectClose(scores, expected, tolerances.scores);
  });
}

function scoreEffects(subject: () => Subject): void {
  it('gives the same scores whether it predicts or not', () => {
    const { runtime, tolerances } = subject();
    const ids = passIds(subject());
    const [quiet, told] = [emptyScores(subject()), emptyScores(subject())];
    runPieces(runtime.score(dense(subject()), slice(ids, quiet)));
    const predictions = new Int32Array(ids.length);
    runPieces(runtime.score(dense(subject()), { ...slice(ids, told), predictions }));
    expectClose(told, quiet, tolerances.scores);
  });

  it('counts its rows after the last piece; given up before, it has changed nothing', () => {
    const { runtime } = subject();
    const cache = dense(subject());
    const rows = headsOf(runtime, cache);
    const ids = passIds(subject());
    const [once, again] = [emptyScores(subject()), emptyScores(subject())];
    for (const piece of runtime.score(cache, slice(ids, once))) {
      expect(cache.length).toBe(pass.document);
      piece();
      break;
    }
    cache.truncate(pass.document);
    expect(headsOf(runtime, cache)).toEqual(rows);
    runPieces(runtime.score(cache, slice(ids, again)));
    expect(cache.length).toBe(pass.document + pass.tokens);
    const whole = emptyScores(subject());
    runPieces(runtime.score(dense(subject()), slice(ids, whole)));
    expect(again).toEqual(whole);
  });

  it('only ever raises scores', () => {
    const { runtime } = subject();
    const scores = emptyScores(subject()).fill(2);
    scores[3] = -1;
    runPieces(runtime.score(dense(subject()), slice(passIds(subject()), scores)));
    expect([...scores].filter((score) => score === 2)).toHaveLength(scores.length - 1);
    expect(at(scores, 3)).toBeGreaterThan(0);
  });

  it('appends the pass to the cache; truncating restores it', () => {
    const { runtime, tolerances } = subject();
    const cache = dense(subject());
    const rows = headsOf(runtime, cache);
    const [first, second] = [emptyScores(subject()), emptyScores(subject())];
    runPieces(runtime.score(cache, slice(passIds(subject()), first)));
    expect(cache.length).toBe(pass.document + pass.tokens);
    cache.truncate(pass.document);
    expect(cache.length).toBe(pass.document);
    expect(headsOf(runtime, cache)).toEqual(rows);
    runPieces(runtime.score(cache, slice(passIds(subject()), second)));
    expectClose(second, first, tolerances.scores);
  });

  it('refuses a pass beyond the capacity, ranges out of order and scores of a wrong size', () => {
    const { runtime } = subject();
    const valid = slice(passIds(subject()), emptyScores(subject()));
    const wrong: readonly (readonly [DenseCache, ScoreSlice])[] = [
      [dense(subject(), pass.document + pass.tokens - 1), valid],
      [dense(subject()), { ...valid, sinkEnd: pass.chunkStart + 1 }],
      [dense(subject()), { ...valid, passStart: pass.chunkEnd - 1 }],
      [dense(subject()), { ...valid, passStart: pass.document + 1 }],
      [dense(subject()), { ...valid, scores: emptyScores(subject()).subarray(1) }],
    ];
    for (const [cache, input] of wrong) {
      expect(() => runPieces(runtime.score(cache, input))).toThrow(AssertionError);
      expect(cache.length).toBe(pass.document);
    }
  });
}

function documentIds(subject: Subject): Int32Array {
  return tokens(subject, pass.document, 71);
}

function passIds(subject: Subject): Int32Array {
  return tokens(subject, pass.tokens, 72);
}

function emptyScores({ runtime }: Subject): Float32Array {
  return new Float32Array(headCount(runtime.layout) * (pass.chunkEnd - pass.chunkStart));
}

function slice(ids: Int32Array, scores: Float32Array): ScoreSlice {
  return {
    ids,
    sinkEnd: pass.sinkEnd,
    chunkStart: pass.chunkStart,
    chunkEnd: pass.chunkEnd,
    passStart: pass.document,
    scores,
  };
}

/** The document, prefilled. */
function dense(subject: Subject, capacity = pass.document + pass.tokens): DenseCache {
  const cache = subject.runtime.createDense(capacity);
  runPieces(subject.runtime.prefill(cache, documentIds(subject)));
  return cache;
}

function naiveRun(subject: Subject): NaiveRun {
  const ids = [...documentIds(subject), ...passIds(subject)];
  return subject.naive({ ids, startPosition: 0 });
}
