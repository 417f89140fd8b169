import { headCount } from '../../core/kv-layout.ts';
import type { ScoringMethod } from '../method.ts';

/** Attention sinks at the beginning; the paper finds that four are enough (table 2). */
const sinkTokens = 4;

/**
 * StreamingLLM (Xiao et al., arXiv 2309.17453, section 3.2): keeps the first four tokens, which act
 * as attention sinks, and the most recent ones, in every head alike. Sinks score 1, the other ones
 * `position / n`, which is below 1. Costs nothing.
 *
 * Deviations: the sinks are the document's first four tokens, beside the template's, which are
 * always kept; and kept keys stay at their original positions instead of being numbered anew.
 */
export const streamingLlm: ScoringMethod = {
  name: 'streaming-llm',
  version: 1,
  description: 'Keeps the first four tokens and the most recent ones.',
  paper: 'arXiv 2309.17453',
  keepsAll: false,
  chunkTokens: () => 0,
  async score({ layout, documentIds }) {
    const tokens = documentIds.length;
    const ofHead = Float32Array.from(documentIds, (_, position) =>
      position < sinkTokens ? 1 : position / tokens,
    );
    const scores = new Float32Array(headCount(layout) * tokens);
    for (let start = 0; start < scores.length; start += tokens) scores.set(ofHead, start);
    return scores;
  },
};
