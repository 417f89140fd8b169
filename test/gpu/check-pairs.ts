import { assert } from '../../src/core/assert.ts';
import { createRandom } from '../../src/core/random.ts';
import type { PagedPool } from '../../src/runtime/cuda/kernel-shapes.ts';
import { checkScore } from './check-score.ts';
import type { Check } from './check-steps.ts';
import { randomNumbers, same, within } from './numbers.ts';
import { Scratch, type Gpu } from './scratch.ts';

const headDim = 64;
const kvHeads = 2;
const capacity = 50;
const blockSize = 16;
/** Positions that stay, for each KV head, best first. */
const kept = [[40, 0, 7], Array.from({ length: 37 }, (_, i) => (i * 11) % 41)] as const;
/** Two blocks for the first head, three for the second, in no order. */
const table = Int32Array.of(4, 1, 2 ** 29, 0, 3, 2);
const maxBlocks = 3;
const poolRows = 5 * blockSize;

/** Compaction, channel scales and the score, each against plain arithmetic. */
export function checkPairs(gpu: Gpu, check: Check): void {
  check('compact to f16', () => withScratch(gpu, compactPlain));
  check('channel scales, compact to i8c', () => withScratch(gpu, compactScaled));
  check('score', () => withScratch(gpu, checkScore));
}

function withScratch(
  gpu: Gpu,
  run: (gpu: Gpu, scratch: Scratch) => string | undefined,
): string | undefined {
  const scratch = new Scratch(gpu);
  try {
    return run(gpu, scratch);
  } finally {
    scratch.close();
  }
}

type Dense = ReturnType<typeof randomNumbers>;

function denseCache(scratch: Scratch): {
  readonly numbers: readonly [Dense, Dense];
  readonly options: {
    readonly type: 'f16';
    readonly denseKeys: bigint;
    readonly denseValues: bigint;
    readonly capacity: number;
    readonly kvHeads: number;
    readonly kept: bigint;
    readonly keptStarts: bigint;
    readonly mostKept: number;
  };
} {
  const random = createRandom(7);
  const count = kvHeads * capacity * headDim;
  const keys = randomNumbers(random, 'f16', count);
  const values = randomNumbers(random, 'f16', count);
  const starts = Int32Array.of(0, kept[0].length, kept[0].length + kept[1].length);
  return {
    numbers: [keys, values],
    options: {
      type: 'f16',
      denseKeys: scratch.upload(keys.bits),
      denseValues: scratch.upload(values.bits),
      capacity,
      kvHeads,
      kept: scratch.upload(Int32Array.from(kept.flat())),
      keptStarts: scratch.upload(starts),
      mostKept: Math.max(...kept.map(({ length }) => length)),
    },
  };
}

/** Calls back for every kept row: its first element in the dense cache and in the pool. */
function forEachKept(visit: (head: number, dense: number, pooled: number) => void): void {
  for (const [head, positions] of kept.entries()) {
    for (const [row, position] of positions.entries()) {
      const block = table[head * maxBlocks + Math.floor(row / blockSize)] ?? 0;
      const pooled = block * blockSize + (row % blockSize);
      visit(head, (head * capacity + position) * headDim, pooled * headDim);
    }
  }
}

function compactPlain(gpu: Gpu, scratch: Scratch): undefined {
  const { numbers, options } = denseCache(scratch);
  const bytes = poolRows * headDim * 2;
  const [keys, values] = [scratch.room(bytes), scratch.room(bytes)];
  const pool: PagedPool = { format: 'f16', headDim, blockSize, keys, values };
  const tableAt = { address: scratch.upload(table), maxBlocks };
  gpu.kernels.compact(gpu.stream, { ...options, pool, table: tableAt });
  for (const [i, address] of [keys, values].entries()) {
    const expected = new Uint16Array(poolRows * headDim).fill(0xffff);
    const bits = numbers[i === 0 ? 0 : 1].bits;
    forEachKept((_, dense, pooled) => {
      expected.set(bits.subarray(dense, dense + headDim), pooled);
    });
    same(scratch.download(address, bytes), new Uint8Array(expected.buffer));
  }
  return undefined;
}

function compactScaled(gpu: Gpu, scratch: Scratch): string {
  const { numbers, options } = denseCache(scratch);
  const bytes = poolRows * headDim;
  const scaleBytes = kvHeads * headDim * 4;
  const [keys, values] = [scratch.room(bytes, 0x80), scratch.room(bytes, 0x80)];
  const [keyScales, valueScales] = [scratch.room(scaleBytes, 0), scratch.room(scaleBytes, 0)];
  gpu.kernels.channelScales(gpu.stream, { ...options, headDim, keyScales, valueScales });
  gpu.kernels.compact(gpu.stream, {
    ...options,
    pool: { format: 'i8c', headDim, blockSize, keys, values, keyScales, valueScales },
    table: { address: scratch.upload(table), maxBlocks },
  });
  let worst = 0;
  const found = [
    { elements: keys, scales: keyScales, numbers: numbers[0] },
    { elements: values, scales: valueScales, numbers: numbers[1] },
  ];
  for (const one of found) {
    const elements = new Int8Array(scratch.download(one.elements, bytes).buffer);
    const scales = new Float32Array(scratch.download(one.scales, scaleBytes).buffer);
    const largest = new Float64Array(kvHeads * headDim);
    forEachKept((head, dense, pooled) => {
      for (let c = 0; c < headDim; c++) {
        const scale = scales[head * headDim + c] ?? NaN;
        const x = one.numbers.values[dense + c] ?? NaN;
        const steps = Math.abs((elements[pooled + c] ?? NaN) - x / scale);
        assert(steps < 0.501, `an element is off by ${steps} of its steps`);
        const at = head * headDim + c;
        largest[at] = Math.max(largest[at] ?? 0, Math.abs(x));
      }
    });
    for (const [i, x] of largest.entries()) {
      worst = Math.max(worst, Math.abs((scales[i] ?? NaN) / (x / 127) - 1));
    }
  }
  // One division in float32.
  return within(worst, 1e-6);
}
