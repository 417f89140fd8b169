import { assert } from '../../core/assert.ts';

/** Element types that the model computes in. */
export type ModelType = 'f16' | 'bf16';

/**
 * Formats of a pool: `i8c` is signed bytes with a scale for each channel of a sequence, `i8r` with
 * one for each row (the precision `int8`). Byte formats go with a model in f16.
 */
export type PoolFormat = ModelType | 'i8c' | 'i8r';

/**
 * Formats of stored pieces: `i8` is the precision `int8`, a row's f16 magnitude, then bytes; `bf16`
 * is for copies of what such a pool holds.
 */
export type StagedFormat = 'f16' | 'f32' | 'i8' | 'bf16';

/** Head dims that there are kernels for. */
export type HeadDim = 64 | 128;

/** Most rows (queries times group) of a unit, as attend's variants have them. */
export type AttendRows = 16 | 64 | 128;

/** All of each, for whoever goes through them. */
export const modelTypes: readonly ModelType[] = ['f16', 'bf16'];
/** See `PoolFormat`. */
export const poolFormats: readonly PoolFormat[] = ['f16', 'bf16', 'i8c', 'i8r'];
/** See `StagedFormat`. */
export const stagedFormats: readonly StagedFormat[] = ['f16', 'f32', 'i8', 'bf16'];
/** See `HeadDim`. */
export const headDims: readonly HeadDim[] = [64, 128];
/** See `AttendRows`. */
export const attendRowCounts: readonly AttendRows[] = [16, 64, 128];

/** A stream, as far as launching goes: its CUstream. */
export interface LaunchStream {
  readonly handle: bigint;
}

/**
 * Keys and values in blocks, `[blocks, blockSize, headDim]` each: device addresses. A pool for one
 * layer is that layer's part of the memory, or all of it if the table's numbers say so.
 */
export interface PagedPool {
  readonly format: PoolFormat;
  readonly headDim: HeadDim;
  /** Rows of a block: a power of two from 16 on. */
  readonly blockSize: number;
  readonly keys: bigint;
  readonly values: bigint;
  /** f16 `[blocks, blockSize]`: each row's largest magnitude; `i8r` only. */
  readonly keyLargest?: bigint;
  /** As keyLargest. */
  readonly valueLargest?: bigint;
  /** f32 `[sequences, headDim]`, of the sequences that the call is about; `i8c` only. */
  readonly keyScales?: bigint;
  /** As keyScales. */
  readonly valueScales?: bigint;
}

/** Where sequences lie: int32 `[sequences, maxBlocks]`, numbers of blocks. */
export interface BlockTable {
  readonly address: bigint;
  readonly maxBlocks: number;
}

/** What chooses a variant of attend. */
export interface AttendVariant {
  readonly format: PoolFormat;
  readonly headDim: HeadDim;
  readonly rows: AttendRows;
}

/** No pointer: a part that the format does not have. */
export const nothing = 0n;

/** Keys that attend reads at once; `plan` deals out work in tiles of as many. */
export function tileKeys(format: PoolFormat): 64 | 128 {
  return isBytes(format) ? 128 : 64;
}

/** Bytes of an element in a pool. */
export function elementBytes(format: PoolFormat): 1 | 2 {
  return isBytes(format) ? 1 : 2;
}

function isBytes(format: PoolFormat): boolean {
  return format === 'i8c' || format === 'i8r';
}

/** The type of queries and results beside a pool. */
export function modelTypeOf(format: PoolFormat): ModelType {
  return format === 'bf16' ? 'bf16' : 'f16';
}

/** The smallest variant of attend for units of so many rows (queries times group), 1 to 128. */
export function attendRows(rows: number): AttendRows {
  const found = attendRowCounts.find((most) => rows <= most);
  assert(rows > 0 && found !== undefined, `a unit of ${rows} rows has 1 to 128`);
  return found;
}

/** Pieces that all KV heads of a unit are cut into at most, about: `native/paged.cuh`. */
const mostPieces = 192;

/** What a launch of attend is about. */
export interface PartCount {
  readonly queries: number;
  /** Units that a query reads. */
  readonly unitsPerQuery: number;
  readonly kvHeads: number;
  readonly group: number;
  readonly headDim: HeadDim;
}

/** Bytes of a launch's `partials` and `stats`, were all sequences as long as any. */
export function partBytes(count: PartCount): { readonly partials: number; readonly stats: number } {
  const { queries, unitsPerQuery, kvHeads, group, headDim } = count;
  const pieces = kvHeads * Math.ceil(mostPieces / kvHeads);
  const rows = queries * unitsPerQuery * group * pieces;
  return { partials: rows * headDim * 4, stats: rows * 2 * 4 };
}

/** Threads of a block of attend. */
export function attendThreads(rows: AttendRows): 128 | 256 {
  return rows === 128 ? 256 : 128;
}

/** Dynamic shared memory of a block of attend, in bytes: three tiles, and what warps exchange. */
export function attendSharedBytes({ format, headDim, rows }: AttendVariant): number {
  const rowBytes = headDim * elementBytes(format) + (format === 'i8r' ? 2 : 0);
  const keysAndValues = 2;
  return 3 * keysAndValues * tileKeys(format) * rowBytes + (rows === 16 ? 256 : 0);
}

/** log2(e) / sqrt(headDim): attention's scale, for exponentials of base 2. */
export function scaleLog2(headDim: HeadDim): { readonly float: number } {
  return { float: Math.LOG2E / Math.sqrt(headDim) };
}

/** The binary logarithm of a pool's block size. */
export function blockShift(pool: PagedPool): number {
  const shift = 31 - Math.clz32(pool.blockSize);
  assert(pool.blockSize >= 16 && pool.blockSize === 1 << shift, `blocks of ${pool.blockSize} rows`);
  return shift;
}

/** A pool's addresses, null where its format has no such part. */
export interface PoolAddresses {
  readonly elements: readonly [keys: bigint, values: bigint];
  readonly largest: readonly [keys: bigint, values: bigint];
  readonly scales: readonly [keys: bigint, values: bigint];
}

/** The addresses that kernels are given, which must be there if the format has the part. */
export function poolAddresses(pool: PagedPool): PoolAddresses {
  const { format } = pool;
  const part = (address: bigint | undefined, exists: boolean): bigint => {
    if (!exists) return nothing;
    assert(address !== undefined, `a pool of ${format} has its magnitudes or scales`);
    return address;
  };
  return {
    elements: [pool.keys, pool.values],
    largest: [part(pool.keyLargest, format === 'i8r'), part(pool.valueLargest, format === 'i8r')],
    scales: [part(pool.keyScales, format === 'i8c'), part(pool.valueScales, format === 'i8c')],
  };
}
