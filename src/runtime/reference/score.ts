import type { KvLayout } from '../../core/kv-layout.ts';
import type { ScoreSlice } from '../runtime.ts';
import { dot, softmax } from './arithmetic.ts';
import type { KvTail } from './caches.ts';

/** What one layer's scoring looks at. */
export interface LayerScoring {
  readonly layer: number;
  readonly layout: KvLayout;
  readonly slice: ScoreSlice;
  /** The dense cache, the slice's keys of this layer written but not yet counted. */
  readonly tail: KvTail;
}

/**
 * KVzip's score (arXiv 2505.23416, section 3.2; KVzip's softmax leaves other chunks out): for each
 * query of the slice, the softmax over sinks, chunk and the pass's own keys up to the query itself;
 * per chunk key, the maximum over queries and query group raises `slice.scores`.
 * @param queries post-RoPE, `[T, queryHeads, headDim]`
 */
export function raiseScores(queries: Float64Array, scoring: LayerScoring): void {
  const { layer, layout, slice, tail } = scoring;
  const { group, headDim, kvHeads } = layout;
  const { sinkEnd, chunkStart, chunkEnd, passStart, scores } = slice;
  const chunk = chunkEnd - chunkStart;
  const ranges = (end: number): readonly (readonly [number, number])[] => [
    [0, sinkEnd],
    [chunkStart, chunkEnd],
    [passStart, end],
  ];
  const weights = new Float64Array(sinkEnd + chunk + tail.length + slice.ids.length - passStart);
  for (let kvHead = 0; kvHead < kvHeads; kvHead++) {
    const head = layer * kvHeads + kvHead;
    const keys = tail.keys(head);
    for (let query = 0; query < slice.ids.length * group; query++) {
      const token = Math.floor(query / group);
      const member = query % group;
      const queryStart = ((token * kvHeads + kvHead) * group + member) * headDim;
      let count = 0;
      for (const [start, end] of ranges(tail.length + token + 1)) {
        for (let row = start; row < end; row++) {
          weights[count++] =
            dot(queries, queryStart, keys, row * headDim, headDim) / Math.sqrt(headDim);
        }
      }
      softmax(weights, count);
      for (let i = 0; i < chunk; i++) {
        const score = weights[sinkEnd + i] as number;
        const place = head * chunk + i;
        if (score > (scores[place] as number)) scores[place] = score;
      }
    }
  }
}
