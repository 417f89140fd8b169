import { randomUUID } from 'node:crypto';
import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { crc32 } from 'node:zlib';
import { assert, defined } from '../core/assert.ts';
import { ReadonceError } from '../core/errors.ts';
import type { TensorRef } from './checkpoint.ts';
import { fileSize } from './files.ts';
import type { ModelLog } from './log.ts';
import { maxSafetensorsHeaderBytes, safetensorsLengthBytes } from './safetensors.ts';
import type { SourceTensor } from './source.ts';
import {
  decodeTensor,
  deinterleaveRows,
  roundToHalf,
  rowCount,
  valueCount,
} from './tensor-encodings.ts';

/** Part of every converted file: bump it when the same source would give other values. */
const conversionVersion = '1';

/** Data begins at a multiple of this; so do tensors, whose sizes are multiples in real models. */
const alignmentBytes = 64;

/** Piece in which a converted file is read back for its checksum. */
const verifyPieceBytes = 4 * 1024 * 1024;

/** Unfinished files older than this were left by a process that died: converting takes minutes. */
const staleTemporaryMs = 60 * 60 * 1000;

/** What to convert, and where to. */
export interface WeightsOptions {
  readonly tensors: readonly SourceTensor[];
  /** SHA-256 of the source files, hex: the name of the converted file. */
  readonly digest: string;
  readonly cacheFolder: string;
  readonly log: ModelLog | undefined;
}

/** Where the tensors of a converted file lie; the header but for the checksum. */
interface Layout {
  readonly headerBytes: number;
  readonly sizeBytes: number;
  readonly offsets: readonly number[];
}

/**
 * Float32 values of every tensor in files that graphs can map. Float32 safetensors are used as they
 * lie; anything else is converted once into `cacheFolder/weights/DIGEST.safetensors`. That file
 * carries a CRC-32 of its data, which is checked whenever it is opened (about 2 GB/s); a damaged
 * one is made anew. Processes that convert at once do not disturb each other. Memory: about one
 * tensor.
 * @throws ReadonceError `storage_full` if the cache folder's disk is full, `invalid_argument` for
 * values that are not finite
 */
export async function openWeights(
  options: WeightsOptions,
): Promise<ReadonlyMap<string, TensorRef>> {
  const { tensors, digest, cacheFolder, log } = options;
  if (tensors.every(isMappable)) {
    return new Map(tensors.map((tensor) => [tensor.name, pick(tensor)]));
  }
  const file = join(cacheFolder, 'weights', `${digest}.safetensors`);
  const layout = layoutOf(tensors);
  const state = await verify(file, tensors, layout);
  if (state === 'damaged') log?.warn({ file }, 'Converted weights are damaged; converting again');
  if (state !== 'intact') await convert(file, { ...options, layout });
  return new Map(
    tensors.map((tensor, i) => {
      const offsetBytes = defined(layout.offsets[i], 'offset');
      const sizeBytes = valueCount(tensor.shape) * 4;
      return [
        tensor.name,
        { name: tensor.name, shape: tensor.shape, file, offsetBytes, sizeBytes },
      ];
    }),
  );
}

function isMappable(tensor: SourceTensor): boolean {
  return (
    tensor.encoding === 'F32' &&
    !tensor.roundToHalf &&
    tensor.interleavedHeads === undefined &&
    tensor.offsetBytes % 4 === 0
  );
}

function pick({ name, shape, file, offsetBytes, sizeBytes }: SourceTensor): TensorRef {
  return { name, shape, file, offsetBytes, sizeBytes };
}

/** The whole header with its length, padded with spaces as the format allows. */
function encodeHeader(tensors: readonly SourceTensor[], checksum: number): Uint8Array {
  const header: Record<string, unknown> = {
    __metadata__: {
      format: 'pt',
      'readonce.conversion': conversionVersion,
      'readonce.crc32': checksum.toString(16).padStart(8, '0'),
    },
  };
  let end = 0;
  for (const { name, shape } of tensors) {
    const start = end;
    end += valueCount(shape) * 4;
    header[name] = { dtype: 'F32', shape, data_offsets: [start, end] };
  }
  const json = Buffer.from(JSON.stringify(header), 'utf8');
  const used = safetensorsLengthBytes + json.byteLength;
  const bytes = Buffer.alloc(Math.ceil(used / alignmentBytes) * alignmentBytes, ' ');
  bytes.writeBigUInt64LE(BigInt(bytes.byteLength - safetensorsLengthBytes));
  json.copy(bytes, safetensorsLengthBytes);
  return bytes;
}

function layoutOf(tensors: readonly SourceTensor[]): Layout {
  const headerBytes = encodeHeader(tensors, 0).byteLength;
  assert(headerBytes <= maxSafetensorsHeaderBytes, 'a header that our own reader takes');
  const offsets: number[] = [];
  let end = headerBytes;
  for (const { shape } of tensors) {
    offsets.push(end);
    end += valueCount(shape) * 4;
  }
  return { headerBytes, sizeBytes: end, offsets };
}

async function verify(
  file: string,
  tensors: readonly SourceTensor[],
  layout: Layout,
): Promise<'absent' | 'damaged' | 'intact'> {
  const sizeBytes = await fileSize(file);
  if (sizeBytes === undefined) return 'absent';
  if (sizeBytes !== layout.sizeBytes) return 'damaged';
  const handle = await open(file, 'r');
  try {
    const header = new Uint8Array(layout.headerBytes);
    await readFully(handle, header, 0);
    const checksum = await checksumFrom(handle, layout.headerBytes);
    return Buffer.compare(header, encodeHeader(tensors, checksum)) === 0 ? 'intact' : 'damaged';
  } finally {
    await handle.close();
  }
}

async function checksumFrom(handle: FileHandle, offsetBytes: number): Promise<number> {
  const piece = new Uint8Array(verifyPieceBytes);
  let checksum = 0;
  for (let at = offsetBytes; ;) {
    const { bytesRead } = await handle.read(piece, 0, piece.byteLength, at);
    if (bytesRead === 0) return checksum;
    checksum = crc32(piece.subarray(0, bytesRead), checksum);
    at += bytesRead;
  }
}

/** Writes beside the target and renames, so that `file` is whole whenever it exists. */
async function convert(
  file: string,
  options: WeightsOptions & { readonly layout: Layout },
): Promise<void> {
  const { tensors, layout, log } = options;
  const startMs = performance.now();
  const folder = dirname(file);
  await mkdir(folder, { recursive: true });
  await removeStale(folder);
  const temporary = `${file}.${randomUUID()}.tmp`;
  try {
    const handle = await open(temporary, 'wx');
    try {
      await writeTensors(handle, tensors, layout);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, file);
    await syncFolder(folder);
  } catch (error) {
    await rm(temporary, { force: true });
    throw asStorageError(error, folder);
  }
  const durationMs = Math.round(performance.now() - startMs);
  log?.info({ file, sizeBytes: layout.sizeBytes, durationMs }, 'Converted weights to float32');
}

async function writeTensors(
  target: FileHandle,
  tensors: readonly SourceTensor[],
  layout: Layout,
): Promise<void> {
  const largest = Math.max(0, ...tensors.map((tensor) => valueCount(tensor.shape)));
  const valueScratch = new Float32Array(largest);
  const byteScratch = new ArrayBuffer(Math.max(0, ...tensors.map((tensor) => tensor.sizeBytes)));
  const sources = new Map<string, FileHandle>();
  let checksum = 0;
  try {
    for (const [i, tensor] of tensors.entries()) {
      const source = sources.get(tensor.file) ?? (await open(tensor.file, 'r'));
      sources.set(tensor.file, source);
      const bytes = new Uint8Array(byteScratch, 0, tensor.sizeBytes);
      await readFully(source, bytes, tensor.offsetBytes);
      const values = valueScratch.subarray(0, valueCount(tensor.shape));
      decodeSource(tensor, bytes, values);
      const encoded = new Uint8Array(values.buffer, 0, values.byteLength);
      checksum = crc32(encoded, checksum);
      await writeFully(target, encoded, defined(layout.offsets[i], 'offset'));
    }
  } finally {
    for (const source of sources.values()) await source.close();
  }
  await writeFully(target, encodeHeader(tensors, checksum), 0);
}

function decodeSource(tensor: SourceTensor, bytes: Uint8Array, values: Float32Array): void {
  const { encoding, interleavedHeads, shape } = tensor;
  const ordered =
    interleavedHeads === undefined
      ? bytes
      : deinterleaveRows(bytes, { rows: rowCount(shape), heads: interleavedHeads });
  decodeTensor(encoding, ordered, values);
  if (tensor.roundToHalf) roundToHalf(values);
  if (!allFinite(values)) {
    throw new ReadonceError(
      'invalid_argument',
      `Expected finite values for ${tensor.name} but got others in ${tensor.file}; it is damaged or its values exceed float16`,
    );
  }
}

function allFinite(values: Float32Array): boolean {
  for (const value of values) {
    if (!Number.isFinite(value)) return false;
  }
  return true;
}

async function readFully(handle: FileHandle, target: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < target.byteLength;) {
    const length = target.byteLength - done;
    const { bytesRead } = await handle.read(target, done, length, position + done);
    if (bytesRead === 0) {
      throw new ReadonceError(
        'invalid_argument',
        `Expected ${target.byteLength} bytes at byte ${position} of a weights file but it ended; ` +
          'was it changed while it was read?',
      );
    }
    done += bytesRead;
  }
}

async function writeFully(handle: FileHandle, source: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < source.byteLength;) {
    const length = source.byteLength - done;
    const { bytesWritten } = await handle.write(source, done, length, position + done);
    done += bytesWritten;
  }
}

async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function removeStale(folder: string): Promise<void> {
  const oldest = Date.now() - staleTemporaryMs;
  for (const name of await readdir(folder)) {
    if (!name.endsWith('.tmp')) continue;
    const path = join(folder, name);
    // Another process may finish or sweep the file in between.
    const found = await stat(path).catch(() => undefined);
    if (found !== undefined && found.mtimeMs < oldest) await rm(path, { force: true });
  }
}

function asStorageError(error: unknown, folder: string): unknown {
  const full = error instanceof Error && 'code' in error && error.code === 'ENOSPC';
  if (!full) return error;
  return new ReadonceError(
    'storage_full',
    `Expected room for converted weights in ${folder} but the disk is full; free some or set READONCE_CACHE`,
    { cause: error },
  );
}
