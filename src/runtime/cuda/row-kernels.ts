import { assert } from '../../core/assert.ts';
import type { KernelLauncher } from './kernel-module.ts';
import {
  blockShift,
  poolAddresses,
  type BlockTable,
  type HeadDim,
  type LaunchStream,
  type ModelType,
  type PagedPool,
  type PoolFormat,
  type StagedFormat,
} from './kernel-shapes.ts';

/** The pairs that stay of a dense cache; one layer of one context. */
export interface KeptPairs {
  /** The dense cache's element type. */
  readonly type: ModelType;
  /** `[kvHeads, capacity, headDim]`. */
  readonly denseKeys: bigint;
  /** As denseKeys. */
  readonly denseValues: bigint;
  /** Positions that a KV head has room for. */
  readonly capacity: number;
  readonly kvHeads: number;
  /** int32: for each KV head the positions that stay, in the order they are to have. */
  readonly kept: bigint;
  /** int32 `[kvHeads + 1]`: where each KV head's begin in `kept`. */
  readonly keptStarts: bigint;
  /** The most pairs that a KV head keeps; with 0 nothing is launched. */
  readonly mostKept: number;
}

/** Where the kept pairs go. */
export interface CompactOptions extends KeptPairs {
  readonly pool: PagedPool;
  /** The context's rows of the table: `[kvHeads, maxBlocks]`. */
  readonly table: BlockTable;
}

/** Channel scales of the kept pairs, for `i8c`. */
export interface ChannelScalesOptions extends KeptPairs {
  readonly headDim: HeadDim;
  /** f32 `[kvHeads, headDim]`, zeros before; out. */
  readonly keyScales: bigint;
  /** As keyScales. */
  readonly valueScales: bigint;
}

/** Stored pieces on their way to blocks, or back; one layer. */
export interface TransferOptions {
  /** Encoded keys, then encoded values, of each piece; at most 32 GiB. Device or pinned memory. */
  readonly staging: bigint;
  readonly staged: StagedFormat;
  /**
   * int32 `[pieceCount, 4]`: offset in staging in units of 16 bytes, rows, first row of the
   * sequence, sequence (row of the table).
   */
  readonly pieces: bigint;
  readonly pieceCount: number;
  /**
   * Thread blocks for each piece; ceil(rows / 8) is a row for each warp, and any smaller number
   * works. 4 by default, which is enough for pieces of some 30 KiB.
   */
  readonly blocksPerPiece?: number;
  readonly pool: PagedPool;
  readonly table: BlockTable;
}

/** Moving rows: from the dense cache, from and to stored pieces. */
export interface RowKernels {
  /** Gathers the kept pairs into blocks, best first. */
  compact(stream: LaunchStream, options: CompactOptions): void;
  /** Finds the scales that `compact` to `i8c` needs. */
  channelScales(stream: LaunchStream, options: ChannelScalesOptions): void;
  load(stream: LaunchStream, options: TransferOptions): void;
  /** The other way; staging is written. */
  store(stream: LaunchStream, options: TransferOptions): void;
}

const threads = 256;
const rowsPerBlock = threads / 32;
const scaleRowsPerBlock = 512;
/** What the y of a grid can be. */
const mostPieces = 65535;
const pieceBytes = 16;
const defaultBlocksPerPiece = 4;

/** Pairs of formats that there are kernels for: model's and pool's, staged and pool's. */
const compactPairs: readonly (readonly [ModelType, PoolFormat])[] = [
  ['f16', 'f16'],
  ['bf16', 'bf16'],
  ['bf16', 'f16'],
  ['f16', 'i8c'],
  ['bf16', 'i8c'],
  ['f16', 'i8r'],
  ['bf16', 'i8r'],
];
const transferPairs: readonly (readonly [StagedFormat, PoolFormat])[] = [
  ['f16', 'f16'],
  ['f32', 'f16'],
  ['i8', 'f16'],
  ['f16', 'bf16'],
  ['f32', 'bf16'],
  ['i8', 'bf16'],
  ['bf16', 'bf16'],
  ['i8', 'i8r'],
  ['f16', 'i8r'],
  ['f32', 'i8r'],
];

/** Whether kept pairs of a dense cache of this type can go into such a pool. */
export function canCompact(type: ModelType, format: PoolFormat): boolean {
  return compactPairs.some(([from, to]) => from === type && to === format);
}

/** Whether stored pieces of this format can be loaded into such a pool, and stored from it. */
export function canTransfer(staged: StagedFormat, format: PoolFormat): boolean {
  return transferPairs.some(([from, to]) => from === staged && to === format);
}

/** The kernels of `compact.cu` and `transfer.cu`. */
export function rowKernels(launcher: KernelLauncher): RowKernels {
  return {
    compact: (stream, o) => {
      if (o.mostKept === 0) return;
      const { format, headDim } = o.pool;
      assert(canCompact(o.type, format), `a kernel compacts ${o.type} to ${format}`);
      const { elements, largest, scales } = poolAddresses(o.pool);
      launcher.launch(
        `compact_${o.type}_${format}_d${headDim}`,
        { stream, grid: [Math.ceil(o.mostKept / rowsPerBlock), o.kvHeads], threads },
        [
          o.denseKeys,
          o.denseValues,
          o.kept,
          o.keptStarts,
          ...elements,
          ...largest,
          ...scales,
          o.table.address,
          BigInt(o.capacity),
          o.table.maxBlocks,
          blockShift(o.pool),
        ],
      );
    },
    channelScales: (stream, o) => {
      if (o.mostKept === 0) return;
      launcher.launch(
        `channel_scales_${o.type}_d${o.headDim}`,
        { stream, grid: [Math.ceil(o.mostKept / scaleRowsPerBlock), o.kvHeads, 2], threads },
        [
          o.denseKeys,
          o.denseValues,
          o.kept,
          o.keptStarts,
          o.keyScales,
          o.valueScales,
          BigInt(o.capacity),
        ],
      );
    },
    load: (stream, o) => {
      transfer(launcher, stream, `load_${o.staged}_${o.pool.format}`, o);
    },
    store: (stream, o) => {
      transfer(launcher, stream, `store_${o.pool.format}_${o.staged}`, o);
    },
  };
}

function transfer(
  launcher: KernelLauncher,
  stream: LaunchStream,
  name: string,
  o: TransferOptions,
): void {
  const { format, headDim } = o.pool;
  assert(canTransfer(o.staged, format), `a kernel moves ${o.staged} to ${format} and back`);
  const { elements, largest } = poolAddresses(o.pool);
  for (let first = 0; first < o.pieceCount; first += mostPieces) {
    const count = Math.min(o.pieceCount - first, mostPieces);
    launcher.launch(
      `${name}_d${headDim}`,
      { stream, grid: [o.blocksPerPiece ?? defaultBlocksPerPiece, count], threads },
      [
        o.staging,
        o.pieces + BigInt(first * pieceBytes),
        ...elements,
        ...largest,
        o.table.address,
        o.table.maxBlocks,
        blockShift(o.pool),
      ],
    );
  }
}
