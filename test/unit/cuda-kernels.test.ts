import { describe, expect, it } from 'vitest';
import {
  attendRowCounts,
  attendSharedBytes,
  headDims,
  modelTypeOf,
  modelTypes,
  poolFormats,
  stagedFormats,
  type PagedPool,
} from '../../src/runtime/cuda/kernel-shapes.ts';
import { createKernels } from '../../src/runtime/cuda/kernels.ts';
import type { KernelArgument } from '../../src/runtime/cuda/launch-buffer.ts';
import { canCompact, canTransfer } from '../../src/runtime/cuda/row-kernels.ts';
import { fakeLauncher, type RecordedLaunch } from '../support/fake-cuda.ts';
import { nativeKernels } from '../support/native-kernels.ts';

const sources = nativeKernels();
const stream = { handle: 5n };

/** Options whose numbers are all different, named as the sources' parameters are. */
const at = {
  keyPool: 1001n,
  valuePool: 1002n,
  keyLargest: 1003n,
  valueLargest: 1004n,
  keyScales: 1005n,
  valueScales: 1006n,
  table: 1007n,
  lengths: 1008n,
  starts: 1009n,
  units: 1010n,
  partials: 1011n,
  stats: 1012n,
  queries: 1013n,
  newKeys: 1014n,
  newValues: 1015n,
  tokens: 1016n,
  out: 1018n,
  queryUnits: 1019n,
  cachedKeys: 1020n,
  ownKeys: 1021n,
  logSums: 1022n,
  scores: 1023n,
  denseKeys: 1024n,
  denseValues: 1025n,
  kept: 1026n,
  keptStarts: 1027n,
  staging: 1028n,
  pieces: 1029n,
  hidden: 1030n,
  matrix: 1031n,
  logits: 1032n,
  source: 1033n,
  target: 1034n,
} as const;
const table = { address: at.table, maxBlocks: 23 };

function pool(format: PagedPool['format'], headDim: PagedPool['headDim']): PagedPool {
  return {
    format,
    headDim,
    blockSize: 64,
    keys: at.keyPool,
    values: at.valuePool,
    keyLargest: at.keyLargest,
    valueLargest: at.valueLargest,
    keyScales: at.keyScales,
    valueScales: at.valueScales,
  };
}

/** Null for what the format does not have. */
function parts(format: PagedPool['format']): Readonly<Record<string, KernelArgument>> {
  const [largest, scales] = [format === 'i8r', format === 'i8c'];
  return {
    keyLargest: largest ? at.keyLargest : 0n,
    valueLargest: largest ? at.valueLargest : 0n,
    keyScales: scales ? at.keyScales : 0n,
    valueScales: scales ? at.valueScales : 0n,
  };
}

const used = new Set<string>();

/** Compares a launch with the parameter list in the sources: names, order and kinds. */
function check(
  launch: RecordedLaunch | undefined,
  name: string,
  values: Readonly<Record<string, KernelArgument>>,
): void {
  const parameters = sources.get(name);
  expect(launch?.name).toBe(name);
  expect(parameters, `${name} in the sources`).toBeDefined();
  used.add(name);
  expect(launch?.args).toEqual((parameters ?? []).map((parameter) => values[parameter.name]));
  for (const [i, { kind }] of (parameters ?? []).entries()) {
    const argument = launch?.args[i];
    const given = typeof argument === 'object' ? 'float' : typeof argument;
    expect(given).toBe({ pointer: 'bigint', long: 'bigint', int: 'number', float: 'float' }[kind]);
  }
  expect(launch?.stream).toBe(stream);
}

function launched(run: (kernels: ReturnType<typeof createKernels>) => void): RecordedLaunch[] {
  const launcher = fakeLauncher();
  run(createKernels(launcher));
  return launcher.launches;
}

const variants = poolFormats.flatMap((format) =>
  headDims.flatMap((headDim) => attendRowCounts.map((rows) => ({ format, headDim, rows }))),
);

describe('kernels of attention', () => {
  it.each(poolFormats)('plan with the tiles of %s', (format) => {
    const shape = { sequences: 8, kvHeads: 4, group: 7 };
    const [launch] = launched((kernels) => {
      kernels.plan(stream, { ...at, ...shape, layers: 3, format });
    });
    check(launch, 'plan', { ...at, ...shape, tileKeys: format.startsWith('i8') ? 128 : 64 });
    expect(launch).toMatchObject({ grid: 3, threads: 256 });
  });

  it.each(variants)('attend: $format, $headDim, $rows', ({ format, headDim, rows }) => {
    const launcher = fakeLauncher();
    const kernels = createKernels(launcher);
    const grid = kernels.attendGrid({ format, headDim, rows });
    kernels.attend(stream, {
      ...at,
      pool: pool(format, headDim),
      table,
      sequences: 8,
      kvHeads: 4,
      group: 7,
      rows,
      grid,
      early: true,
    });
    const name = `attend_${format}_d${headDim}_r${rows}`;
    const sharedBytes = attendSharedBytes({ format, headDim, rows });
    check(launcher.launches[0], name, {
      ...at,
      ...parts(format),
      keys: at.keyPool,
      values: at.valuePool,
      sequences: 8,
      kvHeads: 4,
      group: 7,
      maxBlocks: 23,
      blockShift: 6,
      scaleLog2: { float: Math.LOG2E / Math.sqrt(headDim) },
    });
    const threads = rows === 128 ? 256 : 128;
    expect(launcher.launches[0]).toMatchObject({ grid: 264, threads, sharedBytes, early: true });
    expect(launcher.asked).toEqual([{ name, threads, sharedBytes }]);
  });

  it('append: from the model to the pool', () => {
    for (const format of poolFormats) {
      for (const headDim of headDims) {
        const [launch] = launched((kernels) => {
          const options = { pool: pool(format, headDim), table, tokenCount: 5, kvHeads: 3 };
          kernels.append(stream, { ...at, ...options });
          kernels.append(stream, { ...at, ...options, tokenCount: 0 });
        });
        const values = { tokenCount: 5, kvHeads: 3, maxBlocks: 23, blockShift: 6 };
        const name = `append_${modelTypeOf(format)}_${format}_d${headDim}`;
        check(launch, name, { ...at, ...parts(format), ...values });
        expect(launch).toMatchObject({ grid: 4, threads: 128 });
      }
    }
  });

  it('merge: parts to results', () => {
    for (const type of modelTypes) {
      for (const headDim of headDims) {
        const shape = { unitsPerQuery: 2, kvHeads: 4, group: 7 } as const;
        const options = { ...at, ...shape, type, headDim, queries: 6 };
        const [launch, early, none] = launched((kernels) => {
          kernels.merge(stream, options);
          kernels.merge(stream, { ...options, early: true });
          kernels.merge(stream, { ...options, queries: 0 });
        });
        check(launch, `merge_${type}_d${headDim}`, { ...at, ...shape });
        expect(launch).toMatchObject({ grid: [6, 28], threads: 256, early: false });
        expect(early).toMatchObject({ early: true });
        expect(none).toBeUndefined();
      }
    }
  });
});

describe('kernels of the score', () => {
  it('are given strides as longs and sizes as ints', () => {
    for (const type of modelTypes) {
      for (const headDim of headDims) {
        const sizes = {
          queryCount: 300,
          queryHeads: 28,
          kvHeads: 4,
          chunkStart: 9,
          chunkLength: 129,
          prefix: 3,
          firstOwn: 7,
        };
        const strides = { queryStride: 11, cachedStride: 12, ownStride: 13, scoreStride: 14 };
        const [rows, keys, split] = launched((kernels) => {
          const options = { ...at, ...sizes, ...strides, type, headDim };
          kernels.scoreRows(stream, options);
          kernels.scoreKeys(stream, options);
          kernels.scoreKeys(stream, { ...options, splits: 5 });
        });
        const longs = Object.entries(strides).map(([name, value]) => [name, BigInt(value)]);
        const scaleLog2 = { float: Math.LOG2E / Math.sqrt(headDim) };
        const values = { ...at, ...sizes, ...Object.fromEntries(longs), scaleLog2 };
        check(rows, `score_rows_${type}_d${headDim}`, values);
        check(keys, `score_keys_${type}_d${headDim}`, values);
        const shape = { threads: 128, sharedBytes: 384 * headDim };
        expect(rows).toMatchObject({ ...shape, grid: [3, 28] });
        expect(keys).toMatchObject({ ...shape, grid: [2, 28, 1] });
        expect(split).toMatchObject({ grid: [2, 28, 5] });
      }
    }
  });
});

describe('kernels of rows', () => {
  const kept = { ...at, capacity: 1000, kvHeads: 4 };

  it('compact: every pair of types there is a kernel for, and no other', () => {
    for (const type of modelTypes) {
      for (const format of poolFormats) {
        for (const headDim of headDims) {
          const name = `compact_${type}_${format}_d${headDim}`;
          expect(canCompact(type, format)).toBe(sources.has(name));
          const run = () =>
            launched((kernels) => {
              const options = { ...kept, type, pool: pool(format, headDim), table };
              kernels.compact(stream, { ...options, mostKept: 17 });
              kernels.compact(stream, { ...options, mostKept: 0 });
            });
          if (!sources.has(name)) {
            expect(run).toThrow(/a kernel compacts/);
            continue;
          }
          const values = { capacity: 1000n, maxBlocks: 23, blockShift: 6 };
          const launches = run();
          check(launches[0], name, { ...at, ...parts(format), ...values });
          expect(launches[0]).toMatchObject({ grid: [3, 4], threads: 256 });
          expect(launches).toHaveLength(1);
        }
      }
    }
  });

  it('channel scales: keys and values at once', () => {
    for (const type of modelTypes) {
      for (const headDim of headDims) {
        const [launch] = launched((kernels) => {
          kernels.channelScales(stream, { ...kept, type, headDim, mostKept: 513 });
        });
        check(launch, `channel_scales_${type}_d${headDim}`, { ...at, capacity: 1000n });
        expect(launch).toMatchObject({ grid: [2, 4, 2], threads: 256 });
      }
    }
  });

  it('load and store: every pair of formats there is a kernel for, and no other', () => {
    for (const staged of stagedFormats) {
      for (const format of poolFormats) {
        for (const headDim of headDims) {
          const load = `load_${staged}_${format}_d${headDim}`;
          const store = `store_${format}_${staged}_d${headDim}`;
          expect(canTransfer(staged, format)).toBe(sources.has(load));
          expect(sources.has(store)).toBe(sources.has(load));
          const run = () =>
            launched((kernels) => {
              const options = { ...at, staged, pieceCount: 6, pool: pool(format, headDim), table };
              kernels.load(stream, options);
              kernels.store(stream, { ...options, blocksPerPiece: 9 });
            });
          if (!sources.has(load)) {
            expect(run).toThrow(/a kernel moves/);
            continue;
          }
          const values = { ...at, ...parts(format), maxBlocks: 23, blockShift: 6 };
          const launches = run();
          check(launches[0], load, values);
          check(launches[1], store, values);
          expect(launches[0]).toMatchObject({ grid: [4, 6], threads: 256 });
          expect(launches[1]).toMatchObject({ grid: [9, 6], threads: 256 });
        }
      }
    }
  });

  it('load: more pieces than a grid can have', () => {
    const launches = launched((kernels) => {
      const options = { staged: 'f16', pool: pool('f16', 64), table } as const;
      kernels.load(stream, { ...at, ...options, pieceCount: 65_535 + 2 });
    });
    expect(launches.map(({ grid }) => grid)).toEqual([
      [4, 65_535],
      [4, 2],
    ]);
    expect(launches.map(({ args }) => args[1])).toEqual([at.pieces, at.pieces + 65_535n * 16n]);
  });
});

describe('kernels of the head', () => {
  it('logits: sixteen rows and 256 outputs a block', () => {
    for (const type of modelTypes) {
      const sizes = { rows: 17, inputs: 64, outputs: 513 };
      const [launch] = launched((kernels) => {
        kernels.logits(stream, { ...at, ...sizes, type });
      });
      check(launch, `logits_${type}`, { ...at, ...sizes });
      expect(launch).toMatchObject({ grid: [3, 2], threads: 256 });
    }
  });

  it('largest: a block a row', () => {
    const [launch] = launched((kernels) => {
      kernels.largest(stream, { ...at, rows: 17, outputs: 513 });
    });
    check(launch, 'largest', { ...at, outputs: 513 });
    expect(launch).toMatchObject({ grid: 17, threads: 1024 });
  });

  it.each([
    [1, 1],
    [257, 2],
    [16 * 1024 * 1024, 4096],
  ])('convert: every pair of types, %i numbers in %i blocks', (count, grid) => {
    for (const from of ['f32', 'f16', 'bf16'] as const) {
      for (const to of modelTypes) {
        if (from === to) continue;
        const [launch] = launched((kernels) => {
          kernels.convert(stream, { ...at, from, to, count });
        });
        const values = { from: at.source, to: at.target, count: BigInt(count) };
        check(launch, `convert_${from}_${to}`, values);
        expect(launch).toMatchObject({ grid, threads: 256 });
      }
    }
  });
});

describe('all kernels', () => {
  it('refuse pools that are not whole', () => {
    const bare = { format: 'i8r', headDim: 64, blockSize: 64, keys: 1n, values: 2n } as const;
    const append = (badPool: PagedPool) => () =>
      launched((kernels) => {
        kernels.append(stream, { ...at, pool: badPool, table, tokenCount: 1, kvHeads: 1 });
      });
    expect(append(bare)).toThrow(/i8r has its magnitudes/);
    expect(append({ ...pool('f16', 64), blockSize: 48 })).toThrow(/blocks of 48 rows/);
    expect(append({ ...pool('f16', 64), blockSize: 8 })).toThrow(/blocks of 8 rows/);
  });

  it('reach every kernel of the sources, each with the arguments that it declares', () => {
    expect([...used].sort()).toEqual([...sources.keys()].sort());
  });
});
