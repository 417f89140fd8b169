import { headCount } from '../../core/kv-layout.ts';
import type { ScoringMethod } from '../method.ts';

/**
 * No compression: every pair is kept, and all scores are 0, so that a head's pairs stay in document
 * order. The full cache that the other methods are measured against. Costs nothing.
 */
export const none: ScoringMethod = {
  name: 'none',
  version: 1,
  description: 'Keeps every pair.',
  paper: null,
  keepsAll: true,
  chunkTokens: () => 0,
  score: async ({ layout, documentIds }) =>
    new Float32Array(headCount(layout) * documentIds.length),
};
