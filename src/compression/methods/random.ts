import { createHash } from 'node:crypto';
import { tokenBytes } from '../../core/identity.ts';
import { headCount } from '../../core/kv-layout.ts';
import { createRandom } from '../../core/random.ts';
import type { ScoringMethod } from '../method.ts';

/** Any constant will do; changing it changes every score, so `version` would have to follow. */
const seed = 'readonce random 1';

/**
 * A baseline: every pair of every head has a uniform random score in [0, 1), whatever it holds. The
 * generator starts from the first 48 bits of a SHA-256 over a constant and the document's token
 * ids, so that one document keeps the same pairs on every machine, and two documents do not keep
 * the same places. A method that does not beat this one has found nothing out.
 *
 * Scores have 24 random bits, as many as float32 holds exactly below 1. Costs nothing.
 */
export const random: ScoringMethod = {
  name: 'random',
  version: 1,
  description: 'Keeps pairs at random: a baseline.',
  paper: null,
  keepsAll: false,
  chunkTokens: () => 0,
  async score({ layout, documentIds }) {
    const hash = createHash('sha256').update(seed).update(tokenBytes(documentIds)).digest();
    const generator = createRandom(hash.readUIntBE(0, 6));
    const scores = new Float32Array(headCount(layout) * documentIds.length);
    return scores.map(() => (generator.nextUint32() >>> 8) / 2 ** 24);
  },
};
