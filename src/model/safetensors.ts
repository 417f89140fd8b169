import { open } from 'node:fs/promises';
import { z } from 'zod';
import { ReadonceError } from '../core/errors.ts';
import { fileSize, parseChecked } from './files.ts';
import { valueCount } from './tensor-encodings.ts';

/** Longest header that is read, bytes: thousands of tensors take about 100 bytes each. */
export const maxSafetensorsHeaderBytes = 16 * 1024 * 1024;

/** Bytes of the length that precedes the header. */
export const safetensorsLengthBytes = 8;

/** A tensor of a safetensors file. */
export interface SafetensorsEntry {
  readonly name: string;
  /** As the file says it, e.g. `F16`. */
  readonly dtype: string;
  readonly shape: readonly number[];
  /** From the beginning of the file. */
  readonly offsetBytes: number;
  readonly sizeBytes: number;
}

/** A header whose ranges were checked against the file. `metadata` is {} if there is none. */
export interface SafetensorsHeader {
  readonly entries: readonly SafetensorsEntry[];
  readonly metadata: Readonly<Record<string, string>>;
}

const count = z.int().nonnegative();
const entrySchema = z.strictObject({
  dtype: z.string(),
  shape: z.array(count).max(8),
  data_offsets: z.tuple([count, count]),
});
const metadataSchema = z.record(z.string(), z.string());

/** Bytes of one element; types we cannot compute with are here so that their sizes are checked. */
const elementBytes: ReadonlyMap<string, number> = new Map([
  ['F64', 8],
  ['I64', 8],
  ['U64', 8],
  ['F32', 4],
  ['I32', 4],
  ['U32', 4],
  ['F16', 2],
  ['BF16', 2],
  ['I16', 2],
  ['U16', 2],
  ['F8_E4M3', 1],
  ['F8_E5M2', 1],
  ['I8', 1],
  ['U8', 1],
  ['BOOL', 1],
]);

/**
 * Reads and checks the header of a safetensors file (format: 8 bytes length, little-endian; a JSON
 * object; the data, without holes).
 * @throws ReadonceError `invalid_argument` for a file that is not there or not as the format says
 */
export async function readSafetensorsHeader(file: string): Promise<SafetensorsHeader> {
  const sizeBytes = await fileSize(file);
  if (sizeBytes === undefined) throw malformed(file, 'a file', 'none');
  const handle = await open(file, 'r');
  try {
    const prefix = new Uint8Array(Math.min(safetensorsLengthBytes, sizeBytes));
    await handle.read(prefix, 0, prefix.byteLength, 0);
    const headerBytes = headerLength(prefix, sizeBytes, file);
    const header = new Uint8Array(headerBytes);
    await handle.read(header, 0, headerBytes, safetensorsLengthBytes);
    return parseSafetensorsHeader(header, { sizeBytes, file });
  } finally {
    await handle.close();
  }
}

function headerLength(prefix: Uint8Array, sizeBytes: number, file: string): number {
  if (prefix.byteLength < safetensorsLengthBytes) {
    throw malformed(file, `at least ${safetensorsLengthBytes} bytes`, `${sizeBytes}`);
  }
  const length = new DataView(prefix.buffer).getBigUint64(0, true);
  const available = sizeBytes - safetensorsLengthBytes;
  const limit = Math.min(maxSafetensorsHeaderBytes, available);
  if (length < 2n || length > BigInt(limit)) {
    throw malformed(file, `a header of 2 to ${limit} bytes`, `${length}`);
  }
  return Number(length);
}

/**
 * Checks a header: every tensor's range lies in the file, has the size of its shape, and the ranges
 * cover the data exactly, without overlaps or holes (a name written twice leaves a hole).
 * @param header the JSON text's bytes
 * @throws ReadonceError `invalid_argument`
 */
export function parseSafetensorsHeader(
  header: Uint8Array,
  options: { readonly sizeBytes: number; readonly file: string },
): SafetensorsHeader {
  const { sizeBytes, file } = options;
  const dataStart = safetensorsLengthBytes + header.byteLength;
  const entries: SafetensorsEntry[] = [];
  let metadata: Readonly<Record<string, string>> = {};
  for (const [name, value] of Object.entries(parseObject(header, file))) {
    const what = `${name} in the safetensors header of ${file}`;
    if (name === '__metadata__') {
      metadata = parseChecked(metadataSchema, value, what);
      continue;
    }
    const { dtype, shape, data_offsets: range } = parseChecked(entrySchema, value, what);
    const expected = (elementBytes.get(dtype) ?? NaN) * valueCount(shape);
    if (range[1] - range[0] !== expected) {
      throw malformed(
        file,
        `${expected} bytes for ${name} (${dtype}, [${shape.join(', ')}])`,
        `[${range.join(', ')})`,
      );
    }
    entries.push({
      name,
      dtype,
      shape,
      offsetBytes: dataStart + range[0],
      sizeBytes: expected,
    });
  }
  checkCoverage(entries, { dataStart, sizeBytes, file });
  return { entries, metadata };
}

function parseObject(header: Uint8Array, file: string): object {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(header));
  } catch (error) {
    throw malformed(file, 'JSON in UTF-8 as the header', String(error));
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value;
  throw malformed(
    file,
    'an object as the header',
    Array.isArray(value) ? 'an array' : typeof value,
  );
}

function checkCoverage(
  entries: readonly SafetensorsEntry[],
  options: { readonly dataStart: number; readonly sizeBytes: number; readonly file: string },
): void {
  const { dataStart, sizeBytes, file } = options;
  let end = dataStart;
  const ordered = entries.toSorted(
    (a, b) => a.offsetBytes - b.offsetBytes || a.sizeBytes - b.sizeBytes,
  );
  for (const entry of ordered) {
    if (entry.offsetBytes !== end) {
      throw malformed(
        file,
        `${entry.name} to begin at data byte ${end - dataStart} (no holes, no overlaps)`,
        `${entry.offsetBytes - dataStart}`,
      );
    }
    end += entry.sizeBytes;
  }
  if (end !== sizeBytes) {
    throw malformed(file, `${end} bytes as its tensors say`, `${sizeBytes} (an incomplete copy?)`);
  }
}

function malformed(file: string, expected: string, got: string): ReadonceError {
  return new ReadonceError(
    'invalid_argument',
    `Expected ${expected} for the safetensors file ${file} but got ${got}`,
  );
}
