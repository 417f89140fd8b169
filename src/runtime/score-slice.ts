import { assert } from '../core/assert.ts';
import { headCount, type KvLayout } from '../core/kv-layout.ts';
import type { ScoreSlice } from './runtime.ts';

/** Checks that sinks, chunk and own keys lie in this order and within the cache. */
export function checkScoreSlice(slice: ScoreSlice, layout: KvLayout, length: number): void {
  const { sinkEnd, chunkStart, chunkEnd, passStart } = slice;
  const ordered = [0, sinkEnd, chunkStart, chunkEnd, passStart, length];
  assert(
    ordered.every((row, i) => i === 0 || row >= (ordered[i - 1] as number)),
    `expected 0 ≤ sinkEnd ≤ chunkStart ≤ chunkEnd ≤ passStart ≤ length but got ${ordered.join(', ')}`,
  );
  const expected = headCount(layout) * (chunkEnd - chunkStart);
  assert(
    slice.scores.length === expected,
    `expected ${expected} scores but got room for ${slice.scores.length}`,
  );
}
