import { describe, expect, it } from 'vitest';
import { f16 } from '../../src/compression/precision/f16.ts';
import { f32 } from '../../src/compression/precision/f32.ts';
import { int8 } from '../../src/compression/precision/int8.ts';
import { floatToHalf } from '../../src/core/half.ts';

describe('precision f16', () => {
  it('writes little-endian binary16', () => {
    const encoded = new Uint8Array(8);
    f16.encode(Float32Array.of(1, -2, 65504, 2 ** -24), encoded, 4);
    expect([...encoded]).toEqual([0x00, 0x3c, 0x00, 0xc0, 0xff, 0x7b, 0x01, 0x00]);
  });

  it('rounds every kind of value as the one-value conversion does', () => {
    const bits = Uint32Array.from({ length: 1 << 14 }, (_, i) => Math.imul(i, 0x9e3779b1));
    const everyKind = new Float32Array(bits.buffer);
    const edges = [2 ** -14, 2 ** -14 - 2 ** -26, 2049 / 2048, 2051 / 2048, 65519, 0, -0, 1e-10];
    const values = Float32Array.of(
      ...everyKind.filter((value) => Math.abs(value) < 65520),
      ...edges,
    );
    const encoded = new Uint8Array(values.length * 2);
    f16.encode(values, encoded, 1);
    expect(new Uint16Array(encoded.buffer)).toEqual(Uint16Array.from(values, floatToHalf));
  });

  it.each([65520, -1e30, Infinity, Number.NaN])('refuses %d, which it cannot hold', (value) => {
    const encode = (): void => f16.encode(Float32Array.of(1, value), new Uint8Array(4), 2);
    expect(encode).toThrow(expect.objectContaining({ code: 'unsupported' }));
  });

  it('is within 2⁻¹¹ of normal values, relatively', () => {
    const values = Float32Array.from({ length: 1000 }, (_, i) => 1.05 ** (i % 200) * (1 + i / 999));
    const encoded = new Uint8Array(2000);
    f16.encode(values, encoded, 1);
    const decoded = new Float32Array(1000);
    f16.decode(encoded, decoded, 1);
    decoded.forEach((value, i) => {
      const original = values[i] ?? Number.NaN;
      expect(Math.abs(value - original) / original).toBeLessThanOrEqual(2 ** -11);
    });
  });
});

describe('precision f32', () => {
  it('gives back every bit', () => {
    const values = Float32Array.of(Math.PI, -0, 1e-40, -3e38);
    const encoded = new Uint8Array(16);
    f32.encode(values, encoded, 2);
    const decoded = new Float32Array(4);
    f32.decode(encoded, decoded, 2);
    expect(new Uint32Array(decoded.buffer)).toEqual(new Uint32Array(values.buffer));
  });
});

describe('precision int8', () => {
  const encode = (headDim: number, ...values: readonly number[]): readonly number[] => {
    const source = Float32Array.from(values);
    const encoded = new Uint8Array(int8.encodedBytes(source.length / headDim, headDim));
    int8.encode(source, encoded, headDim);
    return [...encoded];
  };

  it("writes a row's largest magnitude in binary16, then 127ths of it", () => {
    // 2 is 0x4000 and 0.5 is 0x3800 in binary16; −1 of 2 is −63.5 steps, halves up.
    const rows = [2, -2, 1, -1, 0, -0.5, 0.25, 0.5];
    expect(encode(4, ...rows)).toEqual([
      0x00, 0x40, 127, 129, 64, 193, 0x00, 0x38, 0, 129, 64, 127,
    ]);
  });

  it('writes zeros for a row of zeros', () => {
    expect(encode(2, 0, -0)).toEqual([0, 0, 0, 0]);
    const decoded = new Float32Array(2);
    int8.decode(new Uint8Array(4), decoded, 2);
    expect([...decoded]).toEqual([0, 0]);
  });

  it('is within half a step of the values that f16 stores, whatever their size', () => {
    for (const scale of [65504, 1000, 1, 1e-3, 2 ** -20]) {
      const values = Float32Array.from({ length: 64 }, (_, i) => scale * Math.sin(i * i + 1));
      const halves = new Uint8Array(128);
      f16.encode(values, halves, 64);
      f16.decode(halves, values, 64);
      const encoded = new Uint8Array(66);
      int8.encode(values, encoded, 64);
      const decoded = new Float32Array(64);
      int8.decode(encoded, decoded, 64);
      const largest = Math.max(...values.map(Math.abs));
      // Half of a 127th of the largest, and float32's rounding of the product.
      const tolerance = (largest / 254) * (1 + 1e-5);
      decoded.forEach((value, i) => {
        expect(Math.abs(value - (values[i] ?? Number.NaN))).toBeLessThanOrEqual(tolerance);
      });
      expect(Math.max(...decoded.map(Math.abs))).toBe(largest);
    }
  });

  it.each([65520, Infinity, Number.NaN])('refuses %d, which f16 cannot hold', (value) => {
    expect(() => encode(2, 1, value)).toThrow(
      expect.objectContaining({
        code: 'unsupported',
        message: expect.stringContaining('precision "int8"') as string,
      }),
    );
  });
});
