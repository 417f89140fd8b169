import { assert } from '../../core/assert.ts';
import { headCount } from '../../core/kv-layout.ts';
import type { ScoringMethod } from '../method.ts';
import { reconstructionChunkTokens, reconstructionPasses } from '../reconstruction.ts';

/**
 * KVzip (Kim et al., arXiv 2505.23416, section 3): the model is made to repeat the document, and a
 * pair's score is the largest attention that any query of the repetition paid it, the maximum over
 * the queries of a pass and the query heads of the group: `max softmax(q·k / √d)`. Softmax runs
 * over the prefix, the chunk and the pass's own tokens, so scores lie in (0, 1] and are no true
 * attention probabilities. Later questions play no part: one run serves them all.
 *
 * Cost: about twice the prefill.
 * Deviations from the authors' code: ties are broken by (layer, head, position), so that counts are
 * exact, and the chunk shrinks where a pass would run past the model's window.
 */
export const kvzip: ScoringMethod = {
  name: 'kvzip',
  version: 1,
  description: 'Keeps the pairs that the model needs to repeat the document.',
  paper: 'arXiv 2505.23416',
  keepsAll: false,
  chunkTokens: reconstructionChunkTokens,
  async score(access) {
    const heads = headCount(access.layout);
    const tokens = access.documentIds.length;
    const scores = new Float32Array(heads * tokens);
    for (const pass of reconstructionPasses(access)) {
      const chunk = pass.chunkEnd - pass.chunkStart;
      const attention = await access.reconstruct(pass);
      assert(
        attention.length === heads * chunk,
        `expected ${heads * chunk} scores of a pass but got ${attention.length}`,
      );
      for (let head = 0; head < heads; head++) {
        const ofHead = attention.subarray(head * chunk, (head + 1) * chunk);
        scores.set(ofHead, head * tokens + pass.chunkStart);
      }
    }
    return scores;
  },
};
