import { assert, defined } from '../../core/assert.ts';
import type { Closeable } from '../../core/closeable.ts';
import { ReadonceError } from '../../core/errors.ts';
import type { EncodedPairs, Precision } from '../../core/precision.ts';
import { Arena, Layout } from './arena.ts';
import type { PinnedMemory } from './device.ts';
import type { KernelGpu } from './gpu.ts';
import type { HeadDim, ModelType, PagedPool, StagedFormat } from './kernel-shapes.ts';
import { RowEncoder, type DenseRows } from './row-encoder.ts';
import { stagedFormat } from './staged-format.ts';
import type { CudaEvent } from './stream.ts';

/** Bytes of one half of the staging memory: one is filled while the other is read. */
const stagingBytes = 16 * 1024 * 1024;
const mostPieces = 4096;
const pieceNumbers = 4;

/**
 * Rows of a piece that a thread block of eight warps loads: reading host memory is waiting for the
 * bus, so many warps must wait at once.
 */
const rowsPerBlock = 64;

/** Where loaded rows go. */
export interface LoadTarget {
  readonly pool: PagedPool;
  /** int32 `[sequences, maxBlocks]`, in host memory. */
  readonly table: Int32Array;
  readonly maxBlocks: number;
  /** Rises when the table changes. */
  readonly version: number;
}

interface StagingHalf {
  readonly memory: PinnedMemory;
  readonly pieces: Int32Array;
  filledBytes: number;
  pieceCount: number;
  /** Of the longest piece. */
  mostRows: number;
  /** Comes when the device has read it. */
  read: CudaEvent | undefined;
}

/**
 * Rows between the device and their stored form. Out: gathered in order and encoded on the device,
 * then copied. In: staged as they are stored, decoded by the device into blocks.
 */
export class RowTransfer implements Closeable {
  readonly #gpu: KernelGpu;
  readonly #encoder: RowEncoder;
  readonly #halves: StagingHalf[] = [];
  #filling = 0;
  #target: { readonly load: LoadTarget; readonly staged: StagedFormat } | undefined;
  #table: Arena | undefined;
  #tableOf: { readonly table: Int32Array; readonly version: number } | undefined;
  /** Tables that pieces were lost of, since loading them failed. */
  readonly #incomplete = new WeakSet<Int32Array>();

  constructor(gpu: KernelGpu, options: { headDim: HeadDim; type: ModelType }) {
    this.#gpu = gpu;
    this.#encoder = new RowEncoder(gpu, options);
  }

  /**
   * The pairs of these rows, in this order, as they are stored. Waits for the device.
   * @throws ReadonceError `out_of_memory`, `unsupported` for numbers that are not finite
   */
  encode(dense: DenseRows, rows: Uint32Array, precision: Precision): EncodedPairs {
    return this.#encoder.encode(dense, rows, precision);
  }

  /** Puts a stored piece into blocks, at the latest when `flush` is called. */
  load(
    load: LoadTarget,
    at: { readonly sequence: number; readonly firstRow: number },
    { pairs, precision }: { readonly pairs: EncodedPairs; readonly precision: Precision },
  ): void {
    const staged = stagedFormat(precision);
    const isSame =
      this.#target?.load.table === load.table &&
      this.#target.load.version === load.version &&
      this.#target.staged === staged;
    if (!isSame) {
      this.flush();
      this.#target = { load, staged };
    }
    const { keys, values, rows } = pairs;
    const bytes = keys.byteLength + values.byteLength;
    assert(bytes <= stagingBytes, 'a piece fits the staging memory');
    if (rows === 0) return;
    let half = this.#half();
    if (half.filledBytes + bytes > stagingBytes || half.pieceCount === mostPieces) {
      this.finish(load.table);
      this.#target = { load, staged };
      half = this.#half();
    }
    const start = half.filledBytes;
    half.memory.bytes.set(keys, start);
    half.memory.bytes.set(values, start + keys.byteLength);
    half.pieces.set([start / 16, rows, at.firstRow, at.sequence], half.pieceCount * pieceNumbers);
    half.pieceCount++;
    half.mostRows = Math.max(half.mostRows, rows);
    half.filledBytes = Math.ceil((start + bytes) / 16) * 16;
  }

  /**
   * Starts the loading of all pieces so far: what is put into the stream later sees them. Where
   * there is no memory for it they are lost: that is told to those who load or read their table,
   * not to others who compute meanwhile.
   */
  flush(): void {
    const target = this.#target;
    this.#target = undefined;
    const half = this.#halves[this.#filling];
    if (target === undefined || half === undefined || half.pieceCount === 0) return;
    const { stream, kernels } = this.#gpu;
    const { load, staged } = target;
    try {
      kernels.load(stream, {
        staging: half.memory.address,
        staged,
        pieces: half.memory.address + BigInt(stagingBytes),
        pieceCount: half.pieceCount,
        blocksPerPiece: Math.ceil(half.mostRows / rowsPerBlock),
        pool: load.pool,
        table: { address: this.#deviceTable(load), maxBlocks: load.maxBlocks },
      });
      half.read = stream.record();
    } catch (error) {
      // Those who come next must neither load these pieces, nor attend to rows without them.
      empty(half);
      this.#incomplete.add(load.table);
      stream.synchronize();
      if (!(error instanceof ReadonceError) || error.code !== 'out_of_memory') throw error;
      return;
    }
    this.#filling = 1 - this.#filling;
  }

  /**
   * As `flush`, for those who load or read the rows of a table.
   * @throws ReadonceError `out_of_memory` if some of its pieces were lost
   */
  finish(table: Int32Array): void {
    this.flush();
    if (!this.#incomplete.has(table)) return;
    throw new ReadonceError(
      'out_of_memory',
      'Expected memory to load all rows of a context but there was none: ask again, with a ' +
        'smaller keepRatio if that does not help',
    );
  }

  /** Forgets pieces for a table that is going away. */
  drop(table: Int32Array): void {
    if (this.#target?.load.table !== table) return;
    this.#target = undefined;
    const half = this.#halves[this.#filling];
    if (half !== undefined) empty(half);
  }

  /** A device copy of a table; valid until another one is asked for. */
  #deviceTable({ table, version }: LoadTarget): bigint {
    const { device, stream } = this.#gpu;
    if (this.#table === undefined || this.#table.sizeBytes < table.byteLength) {
      stream.synchronize();
      this.#table?.close();
      [this.#table, this.#tableOf] = [undefined, undefined];
      const layout = new Layout();
      layout.add(table.byteLength);
      this.#table = new Arena(device, layout);
    }
    const address = this.#table.address({ offsetBytes: 0, sizeBytes: table.byteLength });
    if (this.#tableOf?.table !== table || this.#tableOf.version !== version) {
      stream.copyToDevice(address, table);
      // The array is ordinary memory, which may change after this call.
      stream.synchronize();
      this.#tableOf = { table, version };
    }
    return address;
  }

  /** The table of `load` on the device, for kernels of the caller's; until the next load. */
  tableOf(load: LoadTarget): bigint {
    this.finish(load.table);
    return this.#deviceTable(load);
  }

  close(): void {
    for (const { memory, read } of this.#halves) {
      read?.close();
      memory.close();
    }
    this.#halves.length = 0;
    this.#table?.close();
    this.#encoder.close();
  }

  /** The half to be filled, free of what it held. */
  #half(): StagingHalf {
    while (this.#halves.length <= this.#filling) {
      const piecesBytes = mostPieces * pieceNumbers * 4;
      const memory = this.#gpu.device.pin(stagingBytes + piecesBytes);
      const { buffer, byteOffset } = memory.bytes;
      this.#halves.push({
        memory,
        pieces: new Int32Array(buffer, byteOffset + stagingBytes, mostPieces * pieceNumbers),
        filledBytes: 0,
        pieceCount: 0,
        mostRows: 0,
        read: undefined,
      });
    }
    const half = defined(this.#halves[this.#filling], 'a half');
    if (half.read !== undefined) {
      half.read.synchronize();
      half.read.close();
      half.read = undefined;
      empty(half);
    }
    return half;
  }
}

function empty(half: StagingHalf): void {
  [half.pieceCount, half.filledBytes, half.mostRows] = [0, 0, 0];
}
