import { assert } from '../../core/assert.ts';
import { headCount } from '../../core/kv-layout.ts';
import type { ScoringMethod } from '../method.ts';

/**
 * Key norm (Devoto et al., arXiv 2406.11430): keys of a small L2 norm attract attention, so
 * `score = −‖k‖₂` per head and token. Reads the keys once and runs nothing.
 *
 * Deviations: the paper's experiments leave the first two layers whole, here all layers are ranked
 * alike; and its budget is one count for all heads, which is budget `uniform` (norms of different
 * heads are hardly comparable, so prefer it to `global`).
 */
export const keyNorm: ScoringMethod = {
  name: 'key-norm',
  version: 1,
  description: 'Keeps the keys of the smallest L2 norm.',
  paper: 'arXiv 2406.11430',
  keepsAll: false,
  chunkTokens: () => 0,
  async score(access) {
    const heads = headCount(access.layout);
    const { headDim } = access.layout;
    const tokens = access.documentIds.length;
    const scores = new Float32Array(heads * tokens);
    for (let head = 0; head < heads; head++) {
      const keys = access.documentKeys(head);
      assert(
        keys.length === tokens * headDim,
        `expected ${tokens * headDim} key elements of head ${head} but got ${keys.length}`,
      );
      for (let token = 0; token < tokens; token++) {
        scores[head * tokens + token] = -norm(keys, token * headDim, (token + 1) * headDim);
      }
    }
    return scores;
  },
};

function norm(values: Float32Array, start: number, end: number): number {
  let squares = 0;
  for (let i = start; i < end; i++) squares += (values[i] as number) ** 2;
  return Math.sqrt(squares);
}
