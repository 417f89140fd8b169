import { assert } from '../../core/assert.ts';
import type { Closeable } from '../../core/closeable.ts';
import { ReadonceError } from '../../core/errors.ts';
import type { EncodedPairs, Precision } from '../../core/precision.ts';
import { Arena, Layout, type Region } from './arena.ts';
import type { PinnedMemory } from './device.ts';
import type { KernelGpu } from './gpu.ts';
import type { HeadDim, ModelType, PagedPool, StagedFormat } from './kernel-shapes.ts';
import { stagedFormat } from './staged-format.ts';

const pieceNumbers = 4;

/** In front of a row's bytes in the precision `int8`. */
const magnitudeBytes = 2;

/** Rows of a block that holds a whole head. */
const largeBlock = 2 ** 20;

/** A head's rows in an uncompressed cache: `[rows, headDim]` each. */
export interface DenseRows {
  readonly keys: bigint;
  readonly values: bigint;
}

/** Memory for gathering rows; it grows with the longest head seen. */
interface Gathering {
  readonly rows: number;
  readonly arena: Arena;
  readonly kept: Region;
  readonly keptStarts: Region;
  readonly pieces: Region;
  readonly table: Region;
  readonly keys: Region;
  readonly values: Region;
  readonly out: PinnedMemory;
}

/**
 * Rows from an uncompressed cache to their stored form: gathered in order and encoded on the
 * device, then copied.
 */
export class RowEncoder implements Closeable {
  readonly #gpu: KernelGpu;
  readonly #headDim: HeadDim;
  readonly #type: ModelType;
  #gathering: Gathering | undefined;

  constructor(gpu: KernelGpu, { headDim, type }: { headDim: HeadDim; type: ModelType }) {
    this.#gpu = gpu;
    this.#headDim = headDim;
    this.#type = type;
  }

  /**
   * The pairs of these rows, in this order, as they are stored. Waits for the device.
   * @throws ReadonceError `out_of_memory`, `unsupported` for numbers that are not finite
   */
  encode(dense: DenseRows, rows: Uint32Array, precision: Precision): EncodedPairs {
    const count = rows.length;
    const sideBytes = precision.encodedBytes(count, this.#headDim);
    if (count === 0) {
      return { rows: 0, keys: new Uint8Array(sideBytes), values: new Uint8Array(sideBytes) };
    }
    const staged = stagedFormat(precision);
    const gathering = this.#gatheringFor(count);
    const pool = this.#gatheredPool(gathering, staged);
    this.#gather(gathering, dense, { rows, pool });
    this.#encodeGathered(gathering, count, { staged, pool });
    const { bytes } = gathering.out;
    const keys = bytes.slice(0, sideBytes);
    const values = bytes.slice(sideBytes, 2 * sideBytes);
    for (const side of [keys, values]) {
      if (!isFinite(side, staged, this.#headDim)) throw notFinite();
    }
    return { rows: count, keys, values };
  }

  close(): void {
    this.#gathering?.arena.close();
    this.#gathering?.out.close();
    this.#gathering = undefined;
  }

  #gather(
    gathering: Gathering,
    dense: DenseRows,
    { rows, pool }: { readonly rows: Uint32Array; readonly pool: PagedPool },
  ): void {
    const { stream, kernels } = this.#gpu;
    const { arena } = gathering;
    const count = rows.length;
    stream.copyToDevice(arena.address(gathering.kept), rows);
    stream.copyToDevice(arena.address(gathering.keptStarts), Int32Array.of(0, count));
    kernels.compact(stream, {
      type: this.#type,
      denseKeys: dense.keys,
      denseValues: dense.values,
      capacity: 0,
      kvHeads: 1,
      kept: arena.address(gathering.kept),
      keptStarts: arena.address(gathering.keptStarts),
      mostKept: count,
      pool,
      table: { address: arena.address(gathering.table), maxBlocks: 1 },
    });
  }

  #encodeGathered(
    gathering: Gathering,
    count: number,
    { staged, pool }: { readonly staged: StagedFormat; readonly pool: PagedPool },
  ): void {
    const { stream, kernels } = this.#gpu;
    const { arena, out } = gathering;
    stream.copyToDevice(arena.address(gathering.pieces), Int32Array.of(0, count, 0, 0));
    const rowsPerBlock = 8;
    kernels.store(stream, {
      staging: out.address,
      staged,
      pieces: arena.address(gathering.pieces),
      pieceCount: 1,
      blocksPerPiece: Math.min(Math.ceil(count / rowsPerBlock), 256),
      pool,
      table: { address: arena.address(gathering.table), maxBlocks: 1 },
    });
    stream.synchronize();
  }

  /**
   * The gathered rows as a pool of one large block, in a format that takes nothing of what is to be
   * stored: bfloat16 has fewer digits than float16.
   */
  #gatheredPool({ arena, keys, values }: Gathering, staged: StagedFormat): PagedPool {
    return {
      format: staged === 'f32' ? this.#type : 'f16',
      headDim: this.#headDim,
      blockSize: largeBlock,
      keys: arena.address(keys),
      values: arena.address(values),
    };
  }

  #gatheringFor(rows: number): Gathering {
    if (this.#gathering !== undefined && this.#gathering.rows >= rows) return this.#gathering;
    assert(rows <= largeBlock, `at most ${largeBlock} rows`);
    this.close();
    const roomFor = Math.min(largeBlock, 2 ** Math.ceil(Math.log2(Math.max(rows, 1024))));
    const layout = new Layout();
    const sideBytes = roomFor * this.#headDim * 2;
    const regions = {
      kept: layout.add(roomFor * 4),
      keptStarts: layout.add(8),
      pieces: layout.add(pieceNumbers * 4),
      table: layout.add(4),
      keys: layout.add(sideBytes),
      values: layout.add(sideBytes),
    };
    const { device, stream } = this.#gpu;
    const arena = new Arena(device, layout);
    try {
      stream.fill32(arena.address(regions.table), { count: 1, value: 0 });
      // Room for float32, the largest of the stored forms.
      const out = device.pin(2 * roomFor * this.#headDim * 4);
      this.#gathering = { rows: roomFor, arena, out, ...regions };
    } catch (error) {
      stream.synchronize();
      arena.close();
      throw error;
    }
    return this.#gathering;
  }
}

/** Whether all of one side's stored rows came from finite numbers. */
function isFinite(side: Uint8Array, staged: StagedFormat, headDim: HeadDim): boolean {
  const { buffer, byteOffset, byteLength } = side;
  if (staged === 'f16') return haveFiniteExponents(side, halfExponents);
  if (staged === 'f32') return haveFiniteExponents(side, floatExponent);
  // The kernel makes a row's magnitude infinite if any of its elements is not finite.
  const rows = new DataView(buffer, byteOffset, byteLength);
  for (let at = 0; at < byteLength; at += headDim + magnitudeBytes) {
    if ((rows.getUint16(at, true) & halfExponent) === halfExponent) return false;
  }
  return true;
}

/** All of its bits are set in numbers that are not finite. */
const halfExponent = 0x7c00;

/** The exponents in a 32-bit word: where they are, ones to add, and what all bits carry to then. */
interface Exponents {
  readonly shift: number;
  readonly mask: number;
  readonly ones: number;
  readonly carries: number;
}

/** Of two halves. */
const halfExponents: Exponents = {
  shift: 10,
  mask: 0x001f001f,
  ones: 0x00010001,
  carries: 0x00200020,
};

const floatExponent: Exponents = { shift: 23, mask: 0xff, ones: 1, carries: 0x100 };

/** Word by word, without a call or a branch for each: a context has hundreds of millions. */
function haveFiniteExponents(side: Uint8Array, exponents: Exponents): boolean {
  const { shift, mask, ones, carries } = exponents;
  const words = new Uint32Array(side.buffer, side.byteOffset, side.byteLength / 4);
  let sums = 0;
  for (let i = 0; i < words.length; i++) sums |= (((words[i] as number) >>> shift) & mask) + ones;
  return (sums & carries) === 0;
}

function notFinite(): ReadonceError {
  return new ReadonceError(
    'unsupported',
    'Expected finite keys and values, within what they are stored in, but the model gave others: ' +
      'where they exceed float16, use --device-precision bf16 and the precision f32, or the CPU',
  );
}
