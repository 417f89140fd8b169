import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { floatToHalf } from '../../src/core/half.ts';
import { fourBitMatrix, takeApart } from '../../src/model/four-bit.ts';
import { decodeTensor } from '../../src/model/tensor-encodings.ts';

/** What four-bit products multiply by, in float64. */
function values(codes: Uint8Array, scale: number, shift: number): readonly number[] {
  return [...codes].flatMap((pair) => [pair & 15, pair >> 4]).map((q) => scale * (q - 8) + shift);
}

const half = fc.float({ min: -8, max: 8, noNaN: true }).map(floatToHalf);
const block = fc.record({
  scale: half,
  minimum: half,
  numbers: fc.uint8Array({ minLength: 16, maxLength: 16 }),
});

describe('blocks of four bits', () => {
  it('have the values that the checkpoint decodes to, in order', () => {
    fc.assert(
      fc.property(fc.array(block, { minLength: 1, maxLength: 5 }), (blocks) => {
        const bytes = Buffer.concat(
          blocks.map(({ scale, minimum, numbers }) => {
            const head = Buffer.alloc(4);
            head.writeUInt16LE(scale, 0);
            head.writeUInt16LE(minimum, 2);
            return Buffer.concat([head, numbers]);
          }),
        );
        const expected = new Float32Array(32 * blocks.length);
        decodeTensor('Q4_1', bytes, expected);
        const matrix = fourBitMatrix(blocks.length + 1);
        takeApart(bytes, matrix, 1);
        for (let i = 0; i < blocks.length; i++) {
          const codes = matrix.codes.subarray(16 * (i + 1), 16 * (i + 2));
          const actual = values(codes, matrix.scales[i + 1] ?? NaN, matrix.shifts[i + 1] ?? NaN);
          // Values are up to 128 in size, and float32 rounds them by 2^-18 twice.
          for (const [j, value] of actual.entries()) {
            expect(Math.abs(value - (expected[32 * i + j] ?? NaN))).toBeLessThanOrEqual(2 ** -16);
          }
        }
        expect([...matrix.codes.subarray(0, 16)]).toEqual(Array.from({ length: 16 }, () => 0));
      }),
    );
  });

  it('hold two numbers a byte, the first in the low half', () => {
    const bytes = Buffer.alloc(20);
    // Numbers 0 to 15, then 15 to 0: GGUF keeps the i-th beside the one 16 further on.
    for (let i = 0; i < 16; i++) bytes.writeUInt8(i | ((15 - i) << 4), 4 + i);
    const matrix = fourBitMatrix(1);
    takeApart(bytes, matrix, 0);
    expect([...matrix.codes]).toEqual([
      0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe, 0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23,
      0x01,
    ]);
  });
});
