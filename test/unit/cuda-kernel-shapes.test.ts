import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import {
  attendRowCounts,
  attendRows,
  attendSharedBytes,
  attendThreads,
  elementBytes,
  headDims,
  modelTypeOf,
  partBytes,
  poolFormats,
  tileKeys,
} from '../../src/runtime/cuda/kernel-shapes.ts';

describe('the shapes of kernels', () => {
  it('are those that native/README.md lists: shared memory', () => {
    const readme = readFileSync(new URL('../../native/README.md', import.meta.url), 'utf8');
    const rows = readme.split('\n').filter((line) => /^\| `(f16|i8r)`.*\d{5}/.test(line));
    const listed = rows.map((row) =>
      [...row.matchAll(/\d{5,}/g)].map(([number]) => Number(number)),
    );
    const ours = (['f16', 'i8r'] as const).map((format) =>
      headDims.flatMap((headDim) =>
        attendRowCounts.map((count) => attendSharedBytes({ format, headDim, rows: count })),
      ),
    );
    expect(ours).toEqual(listed);
    const variants = headDims.flatMap((headDim) =>
      attendRowCounts.map((rows) => ({ headDim, rows })),
    );
    for (const variant of variants) {
      const alike = (['f16', 'bf16', 'i8c'] as const).map((format) =>
        attendSharedBytes({ ...variant, format }),
      );
      expect(new Set(alike).size).toBe(1);
    }
  });

  it('fit the rows of a unit', () => {
    expect([1, 16, 17, 64, 65, 128].map(attendRows)).toEqual([16, 16, 64, 64, 128, 128]);
    expect(() => attendRows(129)).toThrow(/1 to 128/);
    expect(() => attendRows(0)).toThrow(/1 to 128/);
    expect(attendRowCounts.map(attendThreads)).toEqual([128, 128, 256]);
    expect(poolFormats.map(tileKeys)).toEqual([64, 64, 128, 128]);
    expect(poolFormats.map(elementBytes)).toEqual([2, 2, 1, 1]);
    expect(poolFormats.map(modelTypeOf)).toEqual(['f16', 'bf16', 'f16', 'f16']);
  });

  it('say how large parts are', () => {
    // Of 192 pieces for five heads each has 39 at most.
    const launch = { queries: 4, unitsPerQuery: 2, kvHeads: 5, group: 7, headDim: 128 } as const;
    const rows = 4 * 2 * 7 * 5 * 39;
    expect(partBytes(launch)).toEqual({ partials: rows * 128 * 4, stats: rows * 2 * 4 });
  });
});
