import { randomUUID } from 'node:crypto';
import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { crc32 } from 'node:zlib';
import { assert, defined } from '../core/assert.ts';
import { ReadonceError } from '../core/errors.ts';
import { fileSize } from './files.ts';
import { maxSafetensorsHeaderBytes, safetensorsLengthBytes } from './safetensors.ts';

/** Data begins at a multiple of this; so do tensors, whose sizes are multiples in real models. */
const alignmentBytes = 64;

/** Piece in which a converted file is read back for its checksum. */
const verifyPieceBytes = 4 * 1024 * 1024;

/** Unfinished files older than this were left by a process that died: converting takes minutes. */
const staleTemporaryMs = 60 * 60 * 1000;

/** Element types of converted files, as safetensors names them. */
export type ConvertedType = 'F32' | 'U8';

const elementBytes: Readonly<Record<ConvertedType, number>> = { F32: 4, U8: 1 };

/** A tensor of a converted file; `offsetBytes` is its place there. */
export interface ConvertedTensor {
  readonly name: string;
  readonly type: ConvertedType;
  readonly shape: readonly number[];
  readonly offsetBytes: number;
  readonly sizeBytes: number;
}

/** A safetensors file that is made from others, and where everything lies in it. */
export interface ConvertedLayout {
  /** Part of the header: a file of another version counts as damaged. */
  readonly version: string;
  readonly headerBytes: number;
  readonly sizeBytes: number;
  /** In the order of their bytes, without gaps. */
  readonly tensors: readonly ConvertedTensor[];
}

/** Gives the bytes of tensors in the layout's order; a buffer may be used again for the next. */
export type ConvertedBytes = AsyncIterable<Uint8Array>;

/** Where tensors of these names, types and shapes lie. */
export function convertedLayout(
  version: string,
  tensors: readonly Pick<ConvertedTensor, 'name' | 'type' | 'shape'>[],
): ConvertedLayout {
  let sizeBytes = 0;
  const placed = tensors.map(({ name, type, shape }) => {
    const offsetBytes = sizeBytes;
    const values = shape.reduce((product, length) => product * length, 1);
    sizeBytes += values * elementBytes[type];
    return { name, type, shape, offsetBytes, sizeBytes: sizeBytes - offsetBytes };
  });
  const headerBytes = encodeHeader({ version, headerBytes: 0, tensors: placed }, 0).byteLength;
  assert(headerBytes <= maxSafetensorsHeaderBytes, 'a header that our own reader takes');
  return {
    version,
    headerBytes,
    sizeBytes: headerBytes + sizeBytes,
    tensors: placed.map(({ name, type, shape, offsetBytes, sizeBytes: size }) => {
      return { name, type, shape, offsetBytes: headerBytes + offsetBytes, sizeBytes: size };
    }),
  };
}

/** The whole header with its length, padded with spaces as the format allows. */
function encodeHeader(
  layout: Pick<ConvertedLayout, 'version' | 'headerBytes' | 'tensors'>,
  checksum: number,
): Uint8Array {
  const header: Record<string, unknown> = {
    __metadata__: {
      format: 'pt',
      'readonce.conversion': layout.version,
      'readonce.crc32': checksum.toString(16).padStart(8, '0'),
    },
  };
  for (const { name, type, shape, offsetBytes, sizeBytes } of layout.tensors) {
    const start = offsetBytes - layout.headerBytes;
    header[name] = { dtype: type, shape, data_offsets: [start, start + sizeBytes] };
  }
  const json = Buffer.from(JSON.stringify(header), 'utf8');
  const used = safetensorsLengthBytes + json.byteLength;
  const bytes = Buffer.alloc(Math.ceil(used / alignmentBytes) * alignmentBytes, ' ');
  bytes.writeBigUInt64LE(BigInt(bytes.byteLength - safetensorsLengthBytes));
  json.copy(bytes, safetensorsLengthBytes);
  return bytes;
}

/**
 * Whether `file` is a whole converted file of this layout. It carries a CRC-32 of its data, which
 * costs one pass (about 2 GB/s).
 */
export async function verifyConverted(
  file: string,
  layout: ConvertedLayout,
): Promise<'absent' | 'damaged' | 'intact'> {
  const sizeBytes = await fileSize(file);
  if (sizeBytes === undefined) return 'absent';
  if (sizeBytes !== layout.sizeBytes) return 'damaged';
  const handle = await open(file, 'r');
  try {
    const header = new Uint8Array(layout.headerBytes);
    await readFully(handle, header, 0);
    const checksum = await checksumFrom(handle, layout.headerBytes);
    return Buffer.compare(header, encodeHeader(layout, checksum)) === 0 ? 'intact' : 'damaged';
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

/**
 * Writes beside the target and renames, so that `file` is whole whenever it exists; processes that
 * write the same file at once do not disturb each other.
 * @throws ReadonceError `storage_full` if the disk is full, and what `bytes` throws
 */
export async function writeConverted(
  file: string,
  layout: ConvertedLayout,
  bytes: ConvertedBytes,
): Promise<void> {
  const folder = dirname(file);
  await mkdir(folder, { recursive: true });
  await removeStale(folder);
  const temporary = `${file}.${randomUUID()}.tmp`;
  try {
    const handle = await open(temporary, 'wx');
    try {
      await writeTensors(handle, layout, bytes);
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
}

async function writeTensors(
  target: FileHandle,
  layout: ConvertedLayout,
  bytes: ConvertedBytes,
): Promise<void> {
  let checksum = 0;
  let written = 0;
  for await (const encoded of bytes) {
    const tensor = defined(layout.tensors[written++], 'a tensor of the layout');
    assert(encoded.byteLength === tensor.sizeBytes, `bytes of ${tensor.name} fill its place`);
    checksum = crc32(encoded, checksum);
    await writeFully(target, encoded, tensor.offsetBytes);
  }
  assert(written === layout.tensors.length, 'every tensor is written');
  await writeFully(target, encodeHeader(layout, checksum), 0);
}

/** @throws ReadonceError `invalid_argument` if the file ends before */
export async function readFully(
  handle: FileHandle,
  target: Uint8Array,
  position: number,
): Promise<void> {
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
