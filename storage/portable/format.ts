import { ReadonceError } from '../../src/core/errors.ts';
import { frameHeaderBytes } from '../frame.ts';
import { idByteLength, idBytes, idOfKey } from '../keys.ts';

/*
 * What is common to writing and reading context files. PORTABLE.md has the format.
 */

/** Version of the file around the frames; a reader refuses any other. */
export const fileVersion = 1;

/** Bytes before the manifest: magic, version, reserved, id. */
export const preambleBytes = 8 + idByteLength;

/** Bytes of the SHA-256 that ends a file. */
export const digestBytes = 32;

/**
 * What a reader takes at most, whatever a file says; a context past one of these cannot be exported
 * either. They bound what reading holds in memory: the pairs of one head (`headBytes`), token ids
 * and a ranking (16 bytes a token), a frame and the manifest.
 */
export const portableLimits = {
  /** A manifest's frame. */
  manifestBytes: 2 ** 20,
  /** The record in it, as JSON; leaves room for labels, whose letters may take six bytes. */
  recordBytes: 2 ** 19,
  /** A frame, header included. */
  frameBytes: 2 ** 20,
  /** Of prefix and document together; more than the window of any model that runs on a CPU. */
  tokens: 2 ** 20,
  /** Encoded keys and values of one head: 131,072 f32 pairs of 256 elements. */
  headBytes: 2 ** 28,
  /** Layers, and KV heads of a layer: a frame's header has 16 bits for each. */
  layers: 2 ** 16 - 1,
  labels: 16,
  /** Characters of a name, a digest, a label's key or value. */
  text: 256,
  /** The last millisecond of the year 9999. */
  timeMs: 253_402_300_799_999,
} as const;

const magic = 0x58434f52; // "ROCX", little-endian

/** The bytes a file begins with. */
export function encodePreamble(id: string): Buffer {
  const preamble = Buffer.alloc(preambleBytes);
  preamble.writeUInt32LE(magic, 0);
  preamble.writeUInt16LE(fileVersion, 4);
  idBytes(id).copy(preamble, 8);
  return preamble;
}

/** The id in a preamble. @throws ReadonceError `invalid_argument` */
export function decodePreamble(preamble: Buffer): string {
  if (preamble.readUInt32LE(0) !== magic) throw damaged('a file of another kind');
  const version = preamble.readUInt16LE(4);
  if (version !== fileVersion) throw damaged(`version ${version} of the format`);
  if (preamble.readUInt16LE(6) !== 0) throw damaged('a preamble with unknown bits');
  return idOfKey(preamble.subarray(8));
}

/** Rows of a run that fit one frame. */
export function rowsPerFrame(rowBytes: number): number {
  return Math.floor((portableLimits.frameBytes - frameHeaderBytes) / rowBytes);
}

/** The error for whatever is wrong with a file. `reason` says what came; it holds no content. */
export function damaged(
  reason: string,
  details: Readonly<Record<string, unknown>> = {},
  cause?: unknown,
): ReadonceError {
  return new ReadonceError(
    'invalid_argument',
    `Expected an intact context file of version ${fileVersion} but got ${reason}; export it again`,
    { details: { reason, ...details }, cause },
  );
}
