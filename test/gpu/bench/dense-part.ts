import { atLeast, atMost } from '../../../eval/check.ts';
import { median } from '../../../eval/median.ts';
import type { PartReport } from '../../../eval/part.ts';
import { headCount } from '../../../src/core/kv-layout.ts';
import { runPieces } from '../../../src/runtime/run-pieces.ts';
import type { DenseCache, ScoreSlice } from '../../../src/runtime/runtime.ts';
import { prefixTokens, rounds, timed, type Bench } from './bench.ts';
import { randomIds } from './documents.ts';
import { denseFlops, type DenseWork } from './shapes.ts';

const roundsOfSlice = 5;
const documentRounds = 2;
/** Tokens of a chunk that is scored: the longest there is. */
const chunkTokens = 2000;

interface Prefilled extends DenseWork {
  readonly what: string;
  readonly ms: number;
}

/** Prefill against the card's matrix rate, and a pass that scores against one that does not. */
export async function densePart(bench: Bench): Promise<PartReport> {
  const { runtime, model, tokens, progress } = bench;
  const ids = randomIds(tokens, model.config.vocabSize, 400);
  const cache = runtime.createDense(tokens);
  try {
    const slice = Math.min(runtime.sliceTokens, tokens / 2);
    const first = ids.subarray(0, slice);
    const prefillFirst = (): void => {
      cache.truncate(0);
      runPieces(runtime.prefill(cache, first));
    };
    rounds(2, prefillFirst);
    const firstMs = median(rounds(roundsOfSlice, prefillFirst));
    progress(`prefill: ${slice} tokens at past 0 in ${firstMs.toFixed(1)} ms`);
    const wholeMs = median(rounds(documentRounds, () => prefillAll(bench, cache, ids)));
    progress(`prefill: ${tokens} tokens in ${wholeMs.toFixed(0)} ms`);
    const past = tokens - slice;
    const { prefillMs, scoreMs } = compare(bench, cache, ids.subarray(past));
    progress(`at past ${past}: prefill ${prefillMs.toFixed(1)}, score ${scoreMs.toFixed(1)} ms`);
    return report(bench, {
      prefilled: [
        { what: 'a slice at past 0', past: 0, tokens: slice, ms: firstMs },
        { what: `a slice at past ${past}`, past, tokens: slice, ms: prefillMs },
        { what: 'the whole document', past: 0, tokens, ms: wholeMs },
      ],
      scoreMs,
      prefillMs,
    });
  } finally {
    cache.close();
  }
}

function prefillAll({ runtime }: Bench, cache: DenseCache, ids: Int32Array): void {
  cache.truncate(0);
  for (let start = 0; start < ids.length; start += runtime.sliceTokens) {
    runPieces(runtime.prefill(cache, ids.subarray(start, start + runtime.sliceTokens)));
  }
}

/** The last slice of a document that is there, prefilled and scored by turns. */
function compare(
  { runtime }: Bench,
  cache: DenseCache,
  ids: Int32Array,
): { readonly prefillMs: number; readonly scoreMs: number } {
  const past = cache.length - ids.length;
  const chunk = Math.min(chunkTokens, past - prefixTokens);
  const chunkStart = past - chunk;
  const scores = new Float32Array(headCount(runtime.layout) * chunk);
  const prefill = (): void => {
    cache.truncate(past);
    runPieces(runtime.prefill(cache, ids));
  };
  const score = (): void => {
    cache.truncate(past);
    const slice: ScoreSlice = {
      ids,
      sinkEnd: prefixTokens,
      chunkStart,
      chunkEnd: chunkStart + chunk,
      passStart: past,
      scores,
    };
    runPieces(runtime.score(cache, slice));
  };
  prefill();
  score();
  const prefillTimes: number[] = [];
  const scoreTimes: number[] = [];
  for (let round = 0; round < roundsOfSlice; round++) {
    prefillTimes.push(timed(prefill));
    scoreTimes.push(timed(score));
  }
  return { prefillMs: median(prefillTimes), scoreMs: median(scoreTimes) };
}

function report(
  { model, rates }: Bench,
  figures: {
    readonly prefilled: readonly Prefilled[];
    readonly scoreMs: number;
    readonly prefillMs: number;
  },
): PartReport {
  const { prefilled, scoreMs, prefillMs } = figures;
  const all = prefilled.map(({ what, past, tokens, ms }) => {
    const flops = (denseFlops(model.config, { past, tokens }) * 1000) / ms;
    const tokensPerSecond = (tokens * 1000) / ms;
    return { what, past, tokens, ms, tokensPerSecond, flops, share: flops / rates.matrixFlops };
  });
  const percent = (value: number): string => `${(100 * value).toFixed(0)} %`;
  return {
    title: `${model.name}: prefill and scoring`,
    explanation:
      'Wall time of the runtime, pieces back to back, float16. FLOP/s: matrix products and causal ' +
      `attention, no LM head, beside ${(rates.matrixFlops / 1e12).toFixed(0)} TFLOP/s of a square ` +
      'matrix product in this run.',
    tables: [
      {
        title: 'Prefill',
        headers: ['', 'tokens', 'ms', 'tokens/s', 'TFLOP/s', 'of the matrix rate'],
        rows: all.map((each) => [
          each.what,
          String(each.tokens),
          each.ms.toFixed(1),
          each.tokensPerSecond.toFixed(0),
          (each.flops / 1e12).toFixed(0),
          percent(each.share),
        ]),
      },
      {
        title: 'The same slice without and with scoring',
        headers: ['prefill, ms', 'score, ms', 'score / prefill'],
        rows: [[prefillMs.toFixed(1), scoreMs.toFixed(1), (scoreMs / prefillMs).toFixed(3)]],
      },
    ],
    checks: [
      atMost(1.3, {
        what: 'score / prefill of one slice',
        value: scoreMs / prefillMs,
        format: (value) => value.toFixed(3),
      }),
      ...all.map(({ what, share }) =>
        atLeast(0.6, { what: `prefill of ${what} / matrix rate`, value: share, format: percent }),
      ),
    ],
    data: { prefilled: all, scoreMs, prefillMs },
  };
}
