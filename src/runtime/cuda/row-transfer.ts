import { assert, defined } from '../../core/assert.ts';
import type { Closeable } from '../../core/closeable.ts';
import { ReadonceError } from '../../core/errors.ts';
import type { EncodedPairs, Precision } from '../../core/precision.ts';
import { Arena, Layout, type Region } from './arena.ts';
import type { PinnedMemory } from './device.ts';
import type { KernelGpu } from './gpu.ts';
import type { HeadDim, ModelType, PagedPool, StagedFormat } from './kernel-shapes.ts';
import type { CudaEvent } from './stream.ts';

/** Bytes of one half of the staging memory: one is filled while the other is read. */
const stagingBytes = 16 * 1024 * 1024;
const mostPieces = 4096;
const pieceNumbers = 4;

/** A head's rows in an uncompressed cache: `[rows, headDim]` each. */
export interface DenseRows {
  readonly keys: bigint;
  readonly values: bigint;
}

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
  /** Comes when the device has read it. */
  read: CudaEvent | undefined;
}

/** Memory for gathering rows on their way out; it grows with the longest head seen. */
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
 * Rows between the device and their stored form. Out: gathered in order and encoded on the device,
 * then copied. In: staged as they are stored, decoded by the device into blocks.
 */
export class RowTransfer implements Closeable {
  readonly #gpu: KernelGpu;
  readonly #headDim: HeadDim;
  readonly #type: ModelType;
  readonly #halves: StagingHalf[] = [];
  #filling = 0;
  #target: { readonly load: LoadTarget; readonly staged: StagedFormat } | undefined;
  #table: Arena | undefined;
  #tableOf: { readonly table: Int32Array; readonly version: number } | undefined;
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
    const gathering = this.#gatheringFor(count);
    this.#gather(gathering, dense, rows);
    this.#encodeGathered(gathering, count, stagedFormat(precision));
    const { bytes } = gathering.out;
    const keys = bytes.slice(0, sideBytes);
    const values = bytes.slice(sideBytes, 2 * sideBytes);
    if (precision.name === 'f16') for (const side of [keys, values]) checkFinite(side);
    return { rows: count, keys, values };
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
      this.flush();
      this.#target = { load, staged };
      half = this.#half();
    }
    const start = half.filledBytes;
    half.memory.bytes.set(keys, start);
    half.memory.bytes.set(values, start + keys.byteLength);
    half.pieces.set([start / 16, rows, at.firstRow, at.sequence], half.pieceCount * pieceNumbers);
    half.pieceCount++;
    half.filledBytes = Math.ceil((start + bytes) / 16) * 16;
  }

  /** Starts the loading of all pieces so far: what is put into the stream later sees them. */
  flush(): void {
    const target = this.#target;
    this.#target = undefined;
    const half = this.#halves[this.#filling];
    if (target === undefined || half === undefined || half.pieceCount === 0) return;
    const { stream, kernels } = this.#gpu;
    const { load, staged } = target;
    kernels.load(stream, {
      staging: half.memory.address,
      staged,
      pieces: half.memory.address + BigInt(stagingBytes),
      pieceCount: half.pieceCount,
      pool: load.pool,
      table: { address: this.#deviceTable(load), maxBlocks: load.maxBlocks },
    });
    half.read = stream.record();
    this.#filling = 1 - this.#filling;
  }

  /** Forgets pieces for a table that is going away. */
  drop(table: Int32Array): void {
    if (this.#target?.load.table !== table) return;
    this.#target = undefined;
    const half = this.#halves[this.#filling];
    if (half !== undefined) [half.pieceCount, half.filledBytes] = [0, 0];
  }

  /** A device copy of a table; valid until another one is asked for. */
  #deviceTable({ table, version }: LoadTarget): bigint {
    const { device, stream } = this.#gpu;
    if (this.#table === undefined || this.#table.sizeBytes < table.byteLength) {
      stream.synchronize();
      this.#table?.close();
      const layout = new Layout();
      layout.add(table.byteLength);
      this.#table = new Arena(device, layout);
      this.#tableOf = undefined;
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
    this.flush();
    return this.#deviceTable(load);
  }

  close(): void {
    for (const { memory, read } of this.#halves) {
      read?.close();
      memory.close();
    }
    this.#halves.length = 0;
    this.#table?.close();
    this.#gathering?.arena.close();
    this.#gathering?.out.close();
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
        read: undefined,
      });
    }
    const half = defined(this.#halves[this.#filling], 'a half');
    if (half.read !== undefined) {
      half.read.synchronize();
      half.read.close();
      half.read = undefined;
      [half.pieceCount, half.filledBytes] = [0, 0];
    }
    return half;
  }

  #gather(gathering: Gathering, dense: DenseRows, rows: Uint32Array): void {
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
      pool: this.#gatheredPool(gathering),
      table: { address: arena.address(gathering.table), maxBlocks: 1 },
    });
  }

  #encodeGathered(gathering: Gathering, count: number, staged: StagedFormat): void {
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
      pool: this.#gatheredPool(gathering),
      table: { address: arena.address(gathering.table), maxBlocks: 1 },
    });
    stream.synchronize();
  }

  /** The gathered rows as a pool of one large block. */
  #gatheredPool({ arena, keys, values }: Gathering): PagedPool {
    return {
      format: this.#type,
      headDim: this.#headDim,
      blockSize: largeBlock,
      keys: arena.address(keys),
      values: arena.address(values),
    };
  }

  #gatheringFor(rows: number): Gathering {
    if (this.#gathering !== undefined && this.#gathering.rows >= rows) return this.#gathering;
    assert(rows <= largeBlock, `at most ${largeBlock} rows`);
    this.#gathering?.arena.close();
    this.#gathering?.out.close();
    this.#gathering = undefined;
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
    stream.fill32(arena.address(regions.table), { count: 1, value: 0 });
    // Room for float32, the largest of the stored forms.
    const out = device.pin(2 * roomFor * this.#headDim * 4);
    this.#gathering = { rows: roomFor, arena, out, ...regions };
    return this.#gathering;
  }
}

/** Rows of a block that holds a whole head. */
const largeBlock = 2 ** 20;

function stagedFormat({ name }: Precision): StagedFormat {
  const formats: Readonly<Record<string, StagedFormat>> = { f16: 'f16', f32: 'f32', int8: 'i8' };
  return defined(formats[name], `a kernel for the precision ${name}`);
}

function checkFinite(bytes: Uint8Array): void {
  const exponent = 0x7c00;
  for (const half of new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2)) {
    if ((half & exponent) !== exponent) continue;
    throw new ReadonceError(
      'unsupported',
      'Expected keys and values within float16 but the model gave others: use the CPU, or a ' +
        'model that was trained in float16',
    );
  }
}
