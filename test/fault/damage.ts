import { closeSync, openSync, readFileSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import type { Random } from '../../src/core/random.ts';
import { frameHeaderBytes, frameKinds, type FrameKind } from '../../storage/frame.ts';
import { idOfKey } from '../../storage/keys.ts';

/** A frame of FORMAT.md as it lies in a data file, whether the store still refers to it or not. */
export interface FrameInFile {
  readonly kind: FrameKind;
  readonly id: string;
  /** Of the header, bytes into the file. */
  readonly offset: number;
  /** Of header and payload. */
  readonly byteLength: number;
}

const magic = Buffer.from('ROCR', 'latin1');

/** Where the header has what, as FORMAT.md says. */
const fields = {
  kind: 6,
  id: 16,
  payloadBytes: 48,
  payloadChecksum: 56,
  headerChecksum: 60,
} as const;

/** Every intact frame in the data file of a store that no process has open. */
export function findFrames(folder: string): readonly FrameInFile[] {
  const file = readFileSync(dataFile(folder));
  const frames: FrameInFile[] = [];
  for (let at = file.indexOf(magic); at !== -1; at = file.indexOf(magic, at + 1)) {
    const frame = frameAt(file, at);
    if (frame !== undefined) frames.push(frame);
  }
  return frames;
}

/** Changes one bit somewhere in a frame. */
export function flipBit(folder: string, { offset, byteLength }: FrameInFile, random: Random): void {
  const place = offset + Math.floor(random.next() * byteLength);
  const bit = 1 << Math.floor(random.next() * 8);
  const file = openSync(dataFile(folder), 'r+');
  try {
    const byte = new Uint8Array(1);
    readSync(file, byte, 0, 1, place);
    writeSync(
      file,
      byte.map((before) => before ^ bit),
      0,
      1,
      place,
    );
  } finally {
    closeSync(file);
  }
}

function frameAt(file: Buffer, offset: number): FrameInFile | undefined {
  if (offset + frameHeaderBytes > file.byteLength) return undefined;
  const byteLength = frameHeaderBytes + file.readUInt32LE(offset + fields.payloadBytes);
  const bytes = file.subarray(offset, offset + byteLength);
  const header = crc32(bytes.subarray(0, fields.headerChecksum));
  const payload = crc32(bytes.subarray(frameHeaderBytes));
  if (header !== bytes.readUInt32LE(fields.headerChecksum)) return undefined;
  if (payload !== bytes.readUInt32LE(fields.payloadChecksum)) return undefined;
  const number = bytes.readUInt16LE(fields.kind);
  const [kind] = Object.entries(frameKinds).find(([, known]) => known === number) ?? [];
  if (kind === undefined) return undefined;
  return { kind: kind as FrameKind, id: idOfKey(bytes.subarray(fields.id)), offset, byteLength };
}

function dataFile(folder: string): string {
  return join(folder, 'data.mdb');
}
