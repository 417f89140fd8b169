import type { KernelLauncher } from './kernel-module.ts';
import { scaleLog2, type HeadDim, type LaunchStream, type ModelType } from './kernel-shapes.ts';

/**
 * A run of queries of a reconstruction pass over a chunk; one layer. Strides are in elements;
 * addresses and strides are multiples of 16 bytes.
 */
export interface ScorePass {
  readonly type: ModelType;
  readonly headDim: HeadDim;
  /** Token t, query head h at `t * queryStride + h * headDim`. */
  readonly queries: bigint;
  readonly queryStride: number;
  /** More than 0. */
  readonly queryCount: number;
  readonly queryHeads: number;
  readonly kvHeads: number;
  /** KV head h, position p at `h * cachedStride + p * headDim`. */
  readonly cachedKeys: bigint;
  readonly cachedStride: number;
  /** The chunk's first position. */
  readonly chunkStart: number;
  /** More than 0. */
  readonly chunkLength: number;
  /** f32 `[queryHeads, queryCount]`: out of scoreRows, into scoreKeys. */
  readonly logSums: bigint;
}

/** What the denominators need besides. */
export interface ScoreRowsOptions extends ScorePass {
  /** KV head h, token t of the pass at `h * ownStride + t * headDim`. */
  readonly ownKeys: bigint;
  readonly ownStride: number;
  /** Keys before the document, at positions from 0 on; may be 0. */
  readonly prefix: number;
  /** The pass's token that query 0 is; query i sees own keys 0 … firstOwn + i. */
  readonly firstOwn: number;
}

/** What the scores need besides. */
export interface ScoreKeysOptions extends ScorePass {
  /**
   * f32, KV head h, key i of the chunk at `h * scoreStride + i`: the larger of old and new is left.
   * Zeros before the first run.
   */
  readonly scores: bigint;
  readonly scoreStride: number;
  /** Parts that the queries are dealt in: any number works, more fill a card; 1 by default. */
  readonly splits?: number;
}

/**
 * KVzip's score (Kim et al., arXiv 2505.23416): for each key of a chunk the largest probability
 * that a query of the pass gives it. `scoreRows`, then `scoreKeys`.
 */
export interface ScoreKernels {
  scoreRows(stream: LaunchStream, options: ScoreRowsOptions): void;
  scoreKeys(stream: LaunchStream, options: ScoreKeysOptions): void;
}

const threads = 128;
/** Rows that a block of either kernel holds. */
const heldRows = 128;

function sharedBytes(headDim: HeadDim): number {
  return 384 * headDim;
}

/** The kernels of `score.cu`. */
export function scoreKernels(launcher: KernelLauncher): ScoreKernels {
  return {
    scoreRows: (stream, o) => {
      launcher.launch(
        `score_rows_${o.type}_d${o.headDim}`,
        {
          stream,
          grid: [Math.ceil(o.queryCount / heldRows), o.queryHeads],
          threads,
          sharedBytes: sharedBytes(o.headDim),
        },
        [
          o.queries,
          o.cachedKeys,
          o.ownKeys,
          o.logSums,
          BigInt(o.queryStride),
          BigInt(o.cachedStride),
          BigInt(o.ownStride),
          o.queryCount,
          o.queryHeads,
          o.kvHeads,
          o.prefix,
          o.chunkStart,
          o.chunkLength,
          o.firstOwn,
          scaleLog2(o.headDim),
        ],
      );
    },
    scoreKeys: (stream, o) => {
      launcher.launch(
        `score_keys_${o.type}_d${o.headDim}`,
        {
          stream,
          grid: [Math.ceil(o.chunkLength / heldRows), o.queryHeads, o.splits ?? 1],
          threads,
          sharedBytes: sharedBytes(o.headDim),
        },
        [
          o.queries,
          o.cachedKeys,
          o.logSums,
          o.scores,
          BigInt(o.queryStride),
          BigInt(o.cachedStride),
          BigInt(o.scoreStride),
          o.queryCount,
          o.queryHeads,
          o.kvHeads,
          o.chunkStart,
          o.chunkLength,
          scaleLog2(o.headDim),
        ],
      );
    },
  };
}
