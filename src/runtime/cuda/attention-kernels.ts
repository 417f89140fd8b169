import type { KernelLauncher } from './kernel-module.ts';
import {
  attendSharedBytes,
  attendThreads,
  blockShift,
  modelTypeOf,
  poolAddresses,
  scaleLog2,
  tileKeys,
  type AttendRows,
  type AttendVariant,
  type BlockTable,
  type HeadDim,
  type LaunchStream,
  type ModelType,
  type PagedPool,
  type PoolFormat,
} from './kernel-shapes.ts';

/** A step's work is dealt out, for all layers. */
export interface PlanOptions {
  readonly layers: number;
  /** int32 `[layers, sequences]`, rows. */
  readonly lengths: bigint;
  /** int32 `[sequences / kvHeads, 4]`, as `attend` takes them. */
  readonly units: bigint;
  /** int32 `[layers, sequences + 1, 2]`, out. */
  readonly starts: bigint;
  readonly sequences: number;
  readonly kvHeads: number;
  readonly group: number;
  /** Of the pool that attend will read: it decides the size of tiles. */
  readonly format: PoolFormat;
}

/** New tokens' pairs go behind the rows that their units have; one layer. */
export interface AppendOptions {
  readonly pool: PagedPool;
  readonly table: BlockTable;
  /** `[tokens, kvHeads, headDim]` in the model's type. */
  readonly newKeys: bigint;
  /** As newKeys. */
  readonly newValues: bigint;
  /**
   * int32 `[tokens, 2]`: the token's unit, or −1 to pass it over, and its row counted back from the
   * unit's end, 1 for the last.
   */
  readonly tokens: bigint;
  readonly tokenCount: number;
  /** int32 `[sequences]`: rows, the new ones among them. */
  readonly lengths: bigint;
  readonly kvHeads: number;
}

/** Queries attend to the rows of their units; one layer. It leaves parts for `merge`. */
export interface AttendOptions {
  readonly pool: PagedPool;
  readonly table: BlockTable;
  /** `[queries, kvHeads * group, headDim]` in the model's type. */
  readonly queries: bigint;
  /** int32 `[sequences]`: rows; 0 is allowed. */
  readonly lengths: bigint;
  /** int32 `[sequences + 1, 2]`, this layer's from `plan`. */
  readonly starts: bigint;
  /** int32 `[sequences / kvHeads, 4]`: first query, queries, causal (0 or 1), unused. */
  readonly units: bigint;
  /** f32 `[parts, headDim]`, out; `partBytes` says how large. */
  readonly partials: bigint;
  /** f32 `[parts, 2]`, out. */
  readonly stats: bigint;
  readonly sequences: number;
  readonly kvHeads: number;
  /** Query heads of a KV head. */
  readonly group: number;
  /** The variant: see `attendRows`. */
  readonly rows: AttendRows;
  /** Thread blocks: `attendGrid`, or fewer. */
  readonly grid: number;
  /**
   * Begin while the kernel ahead still runs. Only if table, lengths, starts and units were
   * complete before that one began: behind `append`, or another `attend`, but never right behind
   * `plan`. False by default.
   */
  readonly early?: boolean;
}

/** Parts become results; `partials`, `stats`, `starts` and `units` as `attend` was given them. */
export interface MergeOptions {
  readonly type: ModelType;
  readonly headDim: HeadDim;
  /** `[queries, kvHeads * group, headDim]`, out; zeros for a query that sees no rows. */
  readonly out: bigint;
  readonly queries: number;
  readonly kvHeads: number;
  readonly group: number;
  readonly partials: bigint;
  readonly stats: bigint;
  readonly starts: bigint;
  readonly units: bigint;
  /** int32 `[queries, unitsPerQuery]`: the units that each query reads, −1 for none. */
  readonly queryUnits: bigint;
  readonly unitsPerQuery: 1 | 2;
  /**
   * Begin while the `attend` ahead still runs; whatever is planned must have been complete before
   * that began. False by default.
   */
  readonly early?: boolean;
}

/** Attention of a step: `plan` once, then `append`, `attend` and `merge` for each layer. */
export interface AttentionKernels {
  plan(stream: LaunchStream, options: PlanOptions): void;
  append(stream: LaunchStream, options: AppendOptions): void;
  /** Thread blocks of a variant that the whole card runs at once: attend's grid. Ask once. */
  attendGrid(variant: AttendVariant): number;
  attend(stream: LaunchStream, options: AttendOptions): void;
  merge(stream: LaunchStream, options: MergeOptions): void;
}

function attendName({ format, headDim, rows }: AttendVariant): string {
  return `attend_${format}_d${headDim}_r${rows}`;
}

/** The kernels of `plan.cu`, `append.cu`, `attend.cu` and `merge.cu`. */
export function attentionKernels(launcher: KernelLauncher): AttentionKernels {
  return {
    plan: (stream, o) => {
      launcher.launch('plan', { stream, grid: o.layers, threads: 256 }, [
        o.lengths,
        o.units,
        o.starts,
        o.sequences,
        o.kvHeads,
        o.group,
        tileKeys(o.format),
      ]);
    },
    append: (stream, o) => {
      if (o.tokenCount === 0) return;
      const { format, headDim } = o.pool;
      const { elements, largest, scales } = poolAddresses(o.pool);
      launcher.launch(
        `append_${modelTypeOf(format)}_${format}_d${headDim}`,
        { stream, grid: Math.ceil((o.tokenCount * o.kvHeads) / 4), threads: 128 },
        [
          o.newKeys,
          o.newValues,
          o.tokens,
          ...elements,
          ...largest,
          ...scales,
          o.table.address,
          o.lengths,
          o.tokenCount,
          o.kvHeads,
          o.table.maxBlocks,
          blockShift(o.pool),
        ],
      );
    },
    attendGrid: (variant) =>
      launcher.residentBlocks(attendName(variant), {
        threads: attendThreads(variant.rows),
        sharedBytes: attendSharedBytes(variant),
      }),
    attend: (stream, o) => {
      launchAttend(launcher, stream, o);
    },
    merge: (stream, o) => {
      if (o.queries === 0) return;
      launcher.launch(
        `merge_${o.type}_d${o.headDim}`,
        { stream, grid: [o.queries, o.kvHeads * o.group], threads: 256, early: o.early ?? false },
        [
          o.out,
          o.partials,
          o.stats,
          o.starts,
          o.units,
          o.queryUnits,
          o.unitsPerQuery,
          o.kvHeads,
          o.group,
        ],
      );
    },
  };
}

function launchAttend(launcher: KernelLauncher, stream: LaunchStream, o: AttendOptions): void {
  const { format, headDim } = o.pool;
  const variant: AttendVariant = { format, headDim, rows: o.rows };
  const { elements, largest, scales } = poolAddresses(o.pool);
  launcher.launch(
    attendName(variant),
    {
      stream,
      grid: o.grid,
      threads: attendThreads(o.rows),
      sharedBytes: attendSharedBytes(variant),
      early: o.early ?? false,
    },
    [
      o.queries,
      ...elements,
      ...largest,
      ...scales,
      o.table.address,
      o.lengths,
      o.starts,
      o.units,
      o.partials,
      o.stats,
      o.sequences,
      o.kvHeads,
      o.group,
      o.table.maxBlocks,
      blockShift(o.pool),
      scaleLog2(headDim),
    ],
  );
}
