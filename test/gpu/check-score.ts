import { createRandom } from '../../src/core/random.ts';
import { randomNumbers, within } from './numbers.ts';
import type { Gpu, Scratch } from './scratch.ts';
import { dot } from './step-case.ts';

const headDim = 64;
const [kvHeads, queryHeads] = [2, 6];
const [prefix, chunkStart, chunkLength] = [3, 5, 40];
/** The pass is in the dense cache too, behind the chunk. */
const [passTokens, ownStart] = [70, 48];
const positions = ownStart + passTokens;
const runs = [
  { firstOwn: 0, queryCount: 33 },
  { firstOwn: 33, queryCount: passTokens - 33 },
] as const;

/**
 * Products of halves are summed in float32, and exponentials and logarithms are approximate.
 */
const tolerance = 1e-4;

/** The score of a chunk by a pass of 70 tokens, in two runs of queries. */
export function checkScore(gpu: Gpu, scratch: Scratch): string {
  const random = createRandom(11);
  const cached = randomNumbers(random, 'f16', kvHeads * positions * headDim);
  const queries = randomNumbers(random, 'f16', passTokens * queryHeads * headDim);
  const [cachedAt, queriesAt] = [scratch.upload(cached.bits), scratch.upload(queries.bits)];
  const scoreBytes = kvHeads * chunkLength * 4;
  const scores = scratch.room(scoreBytes, 0);
  for (const { firstOwn, queryCount } of runs) {
    const options = {
      type: 'f16',
      headDim,
      queries: queriesAt + BigInt(firstOwn * queryHeads * headDim * 2),
      queryStride: queryHeads * headDim,
      queryCount,
      queryHeads,
      kvHeads,
      cachedKeys: cachedAt,
      cachedStride: positions * headDim,
      chunkStart,
      chunkLength,
      logSums: scratch.room(queryHeads * queryCount * 4),
    } as const;
    gpu.kernels.scoreRows(gpu.stream, {
      ...options,
      ownKeys: cachedAt + BigInt(ownStart * headDim * 2),
      ownStride: positions * headDim,
      prefix,
      firstOwn,
    });
    const target = { scores, scoreStride: chunkLength, splits: 2 };
    gpu.kernels.scoreKeys(gpu.stream, { ...options, ...target });
  }
  const found = new Float32Array(scratch.download(scores, scoreBytes).buffer);
  const expected = expectedScores(cached.values, queries.values);
  const errors = Array.from(expected, (x, i) => Math.abs((found[i] ?? NaN) / x - 1));
  return within(Math.max(...errors), tolerance);
}

/** The same in float64, `[kvHeads, chunkLength]`. */
function expectedScores(cached: Float64Array, queries: Float64Array): Float64Array {
  const expected = new Float64Array(kvHeads * chunkLength);
  const row = (values: Float64Array, index: number): Float64Array =>
    values.subarray(index * headDim, (index + 1) * headDim);
  for (let head = 0; head < queryHeads; head++) {
    const kvHead = Math.floor(head / (queryHeads / kvHeads));
    for (let token = 0; token < passTokens; token++) {
      const query = row(queries, token * queryHeads + head);
      const seen = [
        ...range(0, prefix),
        ...range(chunkStart, chunkLength),
        ...range(ownStart, token + 1),
      ];
      const weights = seen.map((position) =>
        Math.exp(dot(query, row(cached, kvHead * positions + position)) / Math.sqrt(headDim)),
      );
      const sum = weights.reduce((a, b) => a + b, 0);
      for (let i = 0; i < chunkLength; i++) {
        const at = kvHead * chunkLength + i;
        expected[at] = Math.max(expected[at] ?? 0, (weights[prefix + i] ?? NaN) / sum);
      }
    }
  }
  return expected;
}

function range(start: number, count: number): readonly number[] {
  return Array.from({ length: count }, (_, i) => start + i);
}
