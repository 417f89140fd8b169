import type { ModelConfig } from '../../src/model/config.ts';
import { at, scalarProduct, softmax } from './naive-decoder.ts';
import type { NaiveRun } from './naive-decoder.ts';

/** Which tokens of a run are sinks `[0, sinkEnd)`, scored chunk, and pass `[document, end)`. */
export interface ScoredPass {
  readonly document: number;
  readonly sinkEnd: number;
  readonly chunkStart: number;
  readonly chunkEnd: number;
}

/**
 * KVzip's scores by definition, from one run over document and pass: for each query of the pass the
 * softmax over sinks, chunk and the pass's own keys up to it; per chunk key the largest value.
 * @returns `[layers · kvHeads, chunk]`
 */
export function naiveScores(run: NaiveRun, config: ModelConfig, pass: ScoredPass): number[] {
  const group = config.queryHeads / config.kvHeads;
  return run.keys.flatMap((keys, kvHead) => {
    const sinks = keys.slice(0, pass.sinkEnd);
    const chunk = keys.slice(pass.chunkStart, pass.chunkEnd);
    const best = chunk.map(() => 0);
    for (let member = 0; member < group; member++) {
      at(run.queries, kvHead * group + member).forEach((query, token) => {
        if (token < pass.document) return;
        const own = keys.slice(pass.document, token + 1);
        const attention = softmax(
          [...sinks, ...chunk, ...own].map(
            (key) => scalarProduct(query, key) / Math.sqrt(config.headDim),
          ),
        );
        chunk.forEach((_, i) => {
          best[i] = Math.max(at(best, i), at(attention, sinks.length + i));
        });
      });
    }
    return best;
  });
}
