import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import {
  maxSafetensorsHeaderBytes,
  parseSafetensorsHeader,
  readSafetensorsHeader,
} from '../../src/model/safetensors.ts';
import { safetensorsBytes, temporaryFolder } from '../support/tiny-checkpoint.ts';

const folder = temporaryFolder();
const file = join(folder, 'model.safetensors');

afterAll(() => {
  rmSync(folder, { recursive: true });
});

/** Reads a file of a header and so many data bytes. */
function read(header: string, dataBytes: number): ReturnType<typeof readSafetensorsHeader> {
  writeFileSync(file, safetensorsBytes(header, [Buffer.alloc(dataBytes)]));
  return readSafetensorsHeader(file);
}

function tensor(start: number, end: number, dtype = 'F16', shape: unknown = [2, 1]): object {
  return { dtype, shape, data_offsets: [start, end] };
}

describe('a safetensors header', () => {
  it('says where each tensor lies in the file', async () => {
    const header = JSON.stringify({
      __metadata__: { format: 'pt' },
      b: tensor(4, 12, 'F32'),
      a: tensor(0, 4),
    });
    const dataStart = 8 + header.length;
    expect(await read(header, 12)).toEqual({
      metadata: { format: 'pt' },
      entries: [
        { name: 'b', dtype: 'F32', shape: [2, 1], offsetBytes: dataStart + 4, sizeBytes: 8 },
        { name: 'a', dtype: 'F16', shape: [2, 1], offsetBytes: dataStart, sizeBytes: 4 },
      ],
    });
  });

  it('may be padded with spaces, hold scalars and tensors without values', async () => {
    const header = JSON.stringify({ s: tensor(0, 4, 'F32', []), e: tensor(4, 4, 'F32', [0, 3]) });
    expect((await read(`${header}   `, 4)).entries).toHaveLength(2);
  });

  it.each([
    ['no object', '[]', 0, /an object as the header/],
    ['no JSON', '{"a":', 0, /JSON/],
    ['a range of another size than the shape', JSON.stringify({ a: tensor(0, 5) }), 5, /4 bytes/],
    ['a range past the end', JSON.stringify({ a: tensor(0, 4) }), 3, /incomplete copy/],
    ['a range backwards', JSON.stringify({ a: tensor(4, 0) }), 4, /4 bytes/],
    [
      'overlapping ranges',
      JSON.stringify({ a: tensor(0, 4), b: tensor(2, 6) }),
      6,
      /begin at data byte 4/,
    ],
    ['a hole', JSON.stringify({ a: tensor(2, 6) }), 6, /begin at data byte 0/],
    [
      'a name twice, which leaves a hole',
      `{"a":${JSON.stringify(tensor(0, 4))},"a":${JSON.stringify(tensor(4, 8))}}`,
      8,
      /begin at data byte 0/,
    ],
    ['data behind the last tensor', JSON.stringify({ a: tensor(0, 4) }), 5, /incomplete copy/],
    ['an unknown type', JSON.stringify({ a: tensor(0, 4, 'F12') }), 4, /F12/],
    ['a negative dimension', JSON.stringify({ a: tensor(0, 4, 'F16', [-2, -1]) }), 4, /shape/],
    ['a dimension in words', JSON.stringify({ a: tensor(0, 4, 'F16', ['2']) }), 4, /shape/],
    ['a fractional offset', JSON.stringify({ a: tensor(0.5, 4.5) }), 5, /data_offsets/],
    ['an unknown key', JSON.stringify({ a: { ...tensor(0, 4), x: 1 } }), 4, /x/],
    ['metadata that is no text', JSON.stringify({ __metadata__: { a: 1 } }), 0, /__metadata__/],
  ])('with %s is refused', async (_, header, dataBytes, message) => {
    await expect(read(header, dataBytes)).rejects.toMatchObject({
      code: 'invalid_argument',
      message: expect.stringMatching(message) as string,
    });
  });

  it('that is not UTF-8 is refused', () => {
    const header = Uint8Array.of(0x7b, 0xff, 0x7d);
    expect(() => parseSafetensorsHeader(header, { sizeBytes: 11, file })).toThrow(/UTF-8/);
  });

  it.each([
    ['longer than the file', 100n, 50],
    ['longer than the limit', BigInt(maxSafetensorsHeaderBytes) + 1n, 50],
    ['of nearly 2^64 bytes', 2n ** 64n - 1n, 50],
    ['of no bytes', 0n, 50],
  ])('%s is refused before it is read', async (_, length, rest) => {
    const bytes = Buffer.alloc(8 + rest);
    bytes.writeBigUInt64LE(length);
    writeFileSync(file, bytes);
    await expect(readSafetensorsHeader(file)).rejects.toThrow(/a header of 2 to 50 bytes/);
  });

  it('of a file shorter than its length field, or of no file, is refused', async () => {
    writeFileSync(file, 'abc');
    await expect(readSafetensorsHeader(file)).rejects.toThrow(/at least 8 bytes.*got 3/);
    await expect(readSafetensorsHeader(join(folder, 'none'))).rejects.toThrow(/a file.*got none/);
  });
});
