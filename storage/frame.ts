import { assert } from '../src/core/assert.ts';
import { ReadonceError } from '../src/core/errors.ts';
import { formatVersion } from '../src/core/identity.ts';
import { crc32 } from './checksum.ts';
import { idBytes } from './keys.ts';

/** Bytes of the header before every value's payload; FORMAT.md has the layout. */
export const frameHeaderBytes = 64;

/** What a value is, as its header says; the numbers are part of the format. */
export const frameKinds = {
  pairs: 1,
  ranking: 2,
  tokens: 3,
  catalogue: 4,
  usage: 5,
  unfinished: 6,
  quarantine: 7,
  /** Of context files (portable/PORTABLE.md); never in a store. */
  manifest: 16,
} as const;

/** A word of `frameKinds`. */
export type FrameKind = keyof typeof frameKinds;

/** Everything a header says but the lengths, which follow from the payload. */
export interface FrameHeader {
  readonly kind: FrameKind;
  /** Precision of the payload's elements, at most 8 ASCII letters; '' where there are none. */
  readonly precision: string;
  readonly id: string;
  readonly layer: number;
  readonly head: number;
  /** Rank of the first row. */
  readonly firstRank: number;
  /** Rows in the payload; 1 for records. */
  readonly count: number;
  /** Which write of the context a piece belongs to; 0 (default) for records and context files. */
  readonly generation?: number;
}

/** A verified value. `payload` is a view of the bytes that were decoded. */
export interface Frame {
  readonly count: number;
  readonly payload: Uint8Array;
}

const magic = 0x52434f52; // "ROCR", little-endian
const offsets = {
  magic: 0,
  version: 4,
  kind: 6,
  precision: 8,
  id: 16,
  layer: 36,
  head: 38,
  firstRank: 40,
  count: 44,
  payloadBytes: 48,
  generation: 52,
  payloadChecksum: 56,
  headerChecksum: 60,
} as const;
const precisionByteLength = offsets.id - offsets.precision;

/** The error for whatever fails a check. `reason` says which; it holds no stored content. */
export function corruptRecord(
  id: string,
  reason: string,
  details: Readonly<Record<string, unknown>> = {},
  cause?: unknown,
): ReadonceError {
  return new ReadonceError(
    'corrupt_record',
    `Expected an intact record for ${id} but got ${reason}; put its document again`,
    { details: { id, reason, ...details }, cause },
  );
}

/**
 * A header and its payload (the parts, one after another) as one value.
 * @param allocate gives the memory; what is in it does not matter
 */
export function encodeFrame(
  header: FrameHeader,
  parts: readonly Uint8Array[],
  allocate: (bytes: number) => Buffer = (bytes) => Buffer.allocUnsafe(bytes),
): Buffer {
  assert(header.precision.length <= precisionByteLength, 'precision names have at most 8 letters');
  const payloadBytes = parts.reduce((sum, part) => sum + part.byteLength, 0);
  const value = allocate(frameHeaderBytes + payloadBytes);
  value.fill(0, 0, frameHeaderBytes);
  value.writeUInt32LE(magic, offsets.magic);
  value.writeUInt16LE(formatVersion, offsets.version);
  value.writeUInt16LE(frameKinds[header.kind], offsets.kind);
  value.write(header.precision, offsets.precision, 'latin1');
  idBytes(header.id).copy(value, offsets.id);
  value.writeUInt16LE(header.layer, offsets.layer);
  value.writeUInt16LE(header.head, offsets.head);
  value.writeUInt32LE(header.firstRank, offsets.firstRank);
  value.writeUInt32LE(header.count, offsets.count);
  value.writeUInt32LE(payloadBytes, offsets.payloadBytes);
  value.writeUInt32LE(header.generation ?? 0, offsets.generation);
  let end = frameHeaderBytes;
  for (const part of parts) {
    value.set(part, end);
    end += part.byteLength;
  }
  value.writeUInt32LE(payloadChecksum(value), offsets.payloadChecksum);
  value.writeUInt32LE(headerChecksum(value), offsets.headerChecksum);
  return value;
}

/** What the frames of a run have in common, made once for all of them. */
export interface ExpectedFrames {
  readonly header: Omit<FrameHeader, 'firstRank' | 'count'>;
  /** The bytes that all their headers begin with. */
  readonly start: Buffer;
}

/** What frames must be to be those of `header`, at any rank. */
export function expectFrames(header: ExpectedFrames['header']): ExpectedFrames {
  const any = encodeFrame({ ...header, firstRank: 0, count: 0 }, []);
  return { header, start: any.subarray(0, offsets.firstRank) };
}

/**
 * Verifies a value against where it was found.
 * @throws ReadonceError `corrupt_record`, whose details name the first check that failed
 */
export function decodeFrame(value: Uint8Array, expected: Omit<FrameHeader, 'count'>): Frame {
  const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  return decodeFrameOf(bytes, expectFrames(expected), expected.firstRank);
}

/** As `decodeFrame`, for many frames of one run. */
export function decodeFrameOf(
  value: Buffer,
  { header, start }: ExpectedFrames,
  firstRank: number,
): Frame {
  const fail = (reason: string): ReadonceError => {
    const { id, kind, layer, head, generation = 0 } = header;
    return corruptRecord(id, reason, { kind, layer, head, firstRank, generation });
  };
  if (value.byteLength < frameHeaderBytes) throw fail('a value shorter than its header');
  if (value.compare(start, 0, start.byteLength, 0, start.byteLength) !== 0) {
    throw fail(firstDifference(value, start));
  }
  const field = (offset: number): number => value.readUInt32LE(offset);
  if (field(offsets.firstRank) !== firstRank) throw fail('another rank');
  if (field(offsets.payloadBytes) !== value.byteLength - frameHeaderBytes) {
    throw fail('a wrong length');
  }
  if (field(offsets.generation) !== (header.generation ?? 0)) throw fail('another generation');
  if (field(offsets.headerChecksum) !== headerChecksum(value)) throw fail('a damaged header');
  if (field(offsets.payloadChecksum) !== payloadChecksum(value)) throw fail('damaged content');
  return { count: field(offsets.count), payload: value.subarray(frameHeaderBytes) };
}

/** What the first field of a header is that differs from what was expected. */
function firstDifference(value: Buffer, start: Buffer): string {
  const at = start.findIndex((byte, i) => byte !== value[i]);
  if (at < offsets.version) return 'a wrong magic number';
  if (at < offsets.kind) return 'an unknown format version';
  if (at < offsets.precision) return 'another kind of record';
  if (at < offsets.id) return 'another precision';
  if (at < offsets.layer) return "another context's record";
  return at < offsets.head ? 'another layer' : 'another head';
}

/** What a header, not verified, says of how many bytes follow it. */
export function framePayloadBytes(header: Buffer): number {
  return header.readUInt32LE(offsets.payloadBytes);
}

/** CRC-32 over all of the header that lies before this field. */
function headerChecksum(value: Uint8Array): number {
  return crc32(value.subarray(0, offsets.headerChecksum));
}

function payloadChecksum(value: Uint8Array): number {
  return crc32(value.subarray(frameHeaderBytes));
}
