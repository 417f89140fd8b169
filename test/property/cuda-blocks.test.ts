import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { headCount } from '../../src/core/kv-layout.ts';
import { BlockPool, blockSize } from '../../src/runtime/cuda/block-pool.ts';
import {
  blocksOf,
  CudaContextCache,
  type HeadBlocks,
} from '../../src/runtime/cuda/context-cache.ts';
import { CudaTail } from '../../src/runtime/cuda/tail.ts';
import { fakeCaches, fakeKernelGpu } from '../support/fake-memory.ts';

const headDim = 64;
const chunkBytes = 32 * 1024 * 1024;
const chunkBlocks = chunkBytes / (blockSize * headDim * 2);

/** Takes, by hundreds of blocks, and gives, by share and place of what is taken. */
const steps = fc.array(
  fc.oneof(
    fc.record({ take: fc.nat(100) }),
    fc.record({ share: fc.double({ min: 0, max: 1, noNaN: true }), from: fc.nat(99) }),
  ),
  { maxLength: 25 },
);

describe('a pool of blocks', () => {
  it('never takes a block twice, and has memory behind all that are taken', () => {
    fc.assert(
      fc.property(steps, fc.integer({ min: 1, max: 5 }), (given, roomChunks) => {
        const roomBytes = () => roomChunks * 2 * chunkBytes;
        const { gpu, memory } = fakeKernelGpu({ roomBytes });
        const blocks = new BlockPool(gpu, { format: 'f16', headDim, poolBytes: 6 * chunkBytes });
        const room = Math.min(roomChunks * chunkBlocks, blocks.mostBlocks);
        const taken = new Set<number>();
        for (const step of given) {
          if ('take' in step) {
            const [before, count] = [taken.size, 100 * step.take];
            if (taken.size + count > room) {
              expect(() => blocks.take(count)).toThrow(
                expect.objectContaining({ code: 'out_of_memory' }),
              );
            } else {
              for (const block of blocks.take(count)) taken.add(block);
              expect(taken.size).toBe(before + count);
            }
          } else {
            const all = [...taken];
            const start = Math.floor((step.from / 100) * all.length);
            const back = all.slice(start, start + Math.ceil(step.share * all.length));
            blocks.give(back);
            for (const block of back) taken.delete(block);
          }
          expectSound(blocks, memory, taken);
        }
        blocks.give(taken);
        expect(memory.createdBytes()).toBeLessThanOrEqual(2 * chunkBytes);
      }),
      { numRuns: 60 },
    );
  });
});

function expectSound(
  blocks: BlockPool,
  memory: ReturnType<typeof fakeKernelGpu>['memory'],
  taken: ReadonlySet<number>,
): void {
  expect(blocks.takenBytes).toBe(taken.size * blocks.blockBytes);
  expect(blocks.heldBytes).toBe(memory.createdBytes());
  const used = new Set([...taken].map((block) => Math.floor(block / chunkBlocks)));
  for (const chunk of used) {
    for (const side of [blocks.pool.keys, blocks.pool.values]) {
      expect(memory.isBacked(side + BigInt(chunk * chunkBytes))).toBe(true);
    }
  }
  expect(memory.createdBytes()).toBeLessThanOrEqual((used.size + 1) * 2 * chunkBytes);
}

const layout = { layers: 2, kvHeads: 3, group: 2, headDim };
const heads = headCount(layout);
const lengths = fc
  .array(fc.nat(200), { minLength: heads, maxLength: heads })
  .map((rows) => Uint32Array.from(rows));

/** The blocks of a head's rows. */
function blocksOfHead(
  { table, maxBlocks }: HeadBlocks,
  { head, rows }: { readonly head: number; readonly rows: number },
): readonly number[] {
  expect(maxBlocks).toBeGreaterThanOrEqual(blocksOf(rows));
  return [...table.subarray(head * maxBlocks, head * maxBlocks + blocksOf(rows))];
}

describe('contexts and tails', () => {
  it('keep blocks where they are as they shrink and grow, and share none', () => {
    const change = fc.oneof(
      fc.record({ which: fc.nat(2), lengths }),
      fc.record({ grow: fc.integer({ min: 1, max: 90 }) }),
      fc.record({ truncate: fc.double({ min: 0, max: 1, noNaN: true }) }),
    );
    fc.assert(
      fc.property(fc.array(change, { maxLength: 15 }), (changes) => {
        const { caches } = fakeCaches(layout);
        const contexts = [0, 1, 2].map(() => new CudaContextCache(caches, new Uint32Array(heads)));
        const tail = new CudaTail(caches);
        for (const each of changes) {
          if ('which' in each) {
            const context = contexts[each.which];
            const before = context?.blocks;
            const had = context?.lengths.slice();
            context?.resize(each.lengths);
            for (const [head, rows] of each.lengths.entries()) {
              if (before === undefined || had === undefined || context === undefined) continue;
              const stay = Math.min(rows, had[head] ?? 0);
              expect(blocksOfHead(context.blocks, { head, rows: stay })).toEqual(
                blocksOfHead(before, { head, rows: stay }),
              );
            }
          } else if ('grow' in each) {
            tail.reserve(each.grow);
            tail.append(each.grow);
          } else {
            tail.truncate(Math.floor(each.truncate * tail.length));
          }
          const taken = [
            ...contexts.flatMap((context) =>
              [...context.lengths].flatMap((rows, head) =>
                blocksOfHead(context.blocks, { head, rows }),
              ),
            ),
            ...Array.from({ length: heads }, (_, head) =>
              blocksOfHead(tail.blocks, { head, rows: tail.length }),
            ).flat(),
          ];
          expect(new Set(taken).size).toBe(taken.length);
          expect(caches.blocks.takenBytes).toBe(taken.length * caches.blocks.blockBytes);
          const sizes = [...contexts, tail].map(({ sizeBytes }) => sizeBytes);
          expect(sizes.reduce((sum, size) => sum + size, 0)).toBe(caches.blocks.takenBytes);
        }
        for (const each of [...contexts, tail]) each.close();
        expect(caches.blocks.takenBytes).toBe(0);
      }),
      { numRuns: 60 },
    );
  });
});
