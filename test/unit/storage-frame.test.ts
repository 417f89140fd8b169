import { crc32 as zlibCrc32 } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { ReadonceError } from '../../src/core/errors.ts';
import { crc32 } from '../../storage/checksum.ts';
import { decodeFrame, encodeFrame, frameHeaderBytes } from '../../storage/frame.ts';

const header = {
  kind: 'pairs',
  precision: 'f16',
  id: 'ctx_000102030405060708090a0b0c0d0e0f10111213',
  layer: 0x0102,
  head: 0x0304,
  firstRank: 0x05060708,
  count: 2,
  generation: 0x090a0b0c,
} as const;
const payload = Uint8Array.of(0xa0, 0xa1, 0xa2, 0xa3, 0xb0, 0xb1, 0xb2, 0xb3);

it('checksums are those of zlib, by whatever they are computed', () => {
  const bytes = Buffer.from('123456789');
  // The check value of CRC-32/ISO-HDLC.
  expect(crc32(bytes)).toBe(0xcbf43926);
  for (const length of [0, 1, 60, 64, 1000, 65_536]) {
    const noise = Uint8Array.from({ length }, (_, i) => (i * 2_654_435_761) >>> 13);
    expect(crc32(noise)).toBe(zlibCrc32(noise));
    const half = length >> 1;
    expect(crc32(noise.subarray(half), crc32(noise.subarray(0, half)))).toBe(zlibCrc32(noise));
  }
});

describe('frames', () => {
  it('have the bytes that FORMAT.md gives as an example', () => {
    const value = encodeFrame(header, [payload.subarray(0, 4), payload.subarray(4)]);
    expect(value.toString('hex')).toBe(
      [
        '524f4352', // magic
        '0200', // version
        '0100', // kind
        '6631360000000000', // precision
        '000102030405060708090a0b0c0d0e0f10111213', // id
        '0201', // layer
        '0403', // head
        '08070605', // first rank
        '02000000', // count
        '08000000', // payload bytes
        '0c0b0a09', // generation
        '2d419510', // checksum of the payload
        'b336cd37', // checksum of the header
        'a0a1a2a3b0b1b2b3',
      ].join(''),
    );
  });

  it('give back the count and the payload they were made of', () => {
    const frame = decodeFrame(encodeFrame(header, [payload]), header);
    expect(frame.count).toBe(2);
    expect(Buffer.from(frame.payload)).toEqual(Buffer.from(payload));
  });

  it('are refused when any byte differs', () => {
    const intact = encodeFrame(header, [payload]);
    for (let at = 0; at < intact.byteLength; at++) {
      const damaged = Buffer.from(intact);
      damaged[at] = (damaged[at] ?? 0) ^ 0x10;
      expect(() => decodeFrame(damaged, header), `byte ${at}`).toThrow(ReadonceError);
    }
  });

  it('are refused at every other length', () => {
    const intact = encodeFrame(header, [payload]);
    for (let length = 0; length < intact.byteLength; length++) {
      expect(() => decodeFrame(intact.subarray(0, length), header)).toThrow(ReadonceError);
    }
    const longer = Buffer.concat([intact, Buffer.alloc(1)]);
    expect(() => decodeFrame(longer, header)).toThrow('a wrong length');
  });

  it('are refused in the place of another, and say which', () => {
    const value = encodeFrame(header, [payload]);
    const elsewhere = [
      [{ kind: 'ranking' }, 'another kind of record'],
      [{ precision: 'int8' }, 'another precision'],
      [{ id: `ctx_${'f'.repeat(40)}` }, "another context's record"],
      [{ layer: 1 }, 'another layer'],
      [{ head: 1 }, 'another head'],
      [{ firstRank: 0 }, 'another rank'],
      [{ generation: 1 }, 'another generation'],
    ] as const;
    for (const [change, reason] of elsewhere) {
      expect(() => decodeFrame(value, { ...header, ...change })).toThrow(
        expect.objectContaining({
          code: 'corrupt_record',
          details: expect.objectContaining({ reason }),
        }),
      );
    }
  });

  it('of an unknown version are refused even with a right checksum', () => {
    const value = encodeFrame(header, [payload]);
    value.writeUInt16LE(99, 4);
    expect(() => decodeFrame(value, header)).toThrow('an unknown format version');
  });

  it('keep payloads at a multiple of 8 bytes, so that they can be read in place', () => {
    expect(frameHeaderBytes % 8).toBe(0);
  });
});
