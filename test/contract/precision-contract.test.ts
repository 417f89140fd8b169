import { describe, expect, it } from 'vitest';
import { precisions } from '../../src/compression/registry.ts';
import { AssertionError, defined } from '../../src/core/assert.ts';

const rows = 6;
const headDim = 8;

/** Keys of a usual size, a zero of each sign and a very small one among them. */
function someRows(): Float32Array {
  const values = Float32Array.from({ length: rows * headDim }, (_, i) => 12 * Math.sin(i * i + 1));
  values.set([0, -0, 1e-7], 5);
  return values;
}

describe.each([...precisions])('precision %s', (name, precision) => {
  const encode = (values: Float32Array): Uint8Array => {
    const encoded = new Uint8Array(precision.encodedBytes(values.length / headDim, headDim));
    precision.encode(values, encoded, headDim);
    return encoded;
  };
  const decode = (encoded: Uint8Array): Float32Array => {
    const values = new Float32Array(rows * headDim);
    precision.decode(encoded, values, headDim);
    return values;
  };

  it('carries its registered name and a one-sentence description', () => {
    expect(precision.name).toBe(name);
    expect(name).toMatch(/^[a-z][a-z0-9-]*$/);
    expect(precision.description).toMatch(/^[A-Z].*\.$/);
  });

  it('needs no bytes for no rows and the same for each row', () => {
    const one = precision.encodedBytes(1, headDim);
    expect(precision.encodedBytes(0, headDim)).toBe(0);
    expect(one).toBeGreaterThan(0);
    expect(precision.encodedBytes(rows, headDim)).toBe(rows * one);
  });

  it('gives values back within a hundredth of the largest of their row', () => {
    const values = someRows();
    const decoded = decode(encode(values));
    for (let row = 0; row < rows; row++) {
      const range = { start: row * headDim, end: (row + 1) * headDim };
      const original = values.subarray(range.start, range.end);
      // The loosest precision that is of use, 8 bits a row, is this close; most are closer.
      const tolerance = Math.max(...original.map(Math.abs)) / 100;
      const rounded = decoded.subarray(range.start, range.end);
      rounded.forEach((value, i) => {
        expect(Math.abs(value - (original[i] ?? Number.NaN))).toBeLessThanOrEqual(tolerance);
      });
    }
  });

  it('loses nothing more when rounded values are encoded again', () => {
    const once = decode(encode(someRows()));
    expect(decode(encode(once))).toEqual(once);
  });

  it('encodes each row by itself, so that a prefix of rows is a prefix of bytes', () => {
    const values = someRows();
    const prefix = encode(values.subarray(0, 2 * headDim));
    expect(encode(values).subarray(0, prefix.length)).toEqual(prefix);
  });

  it('gives the same bytes from values that finer precisions stored', () => {
    expect(precision.exactFrom).not.toContain(name);
    for (const finerName of precision.exactFrom) {
      const finer = defined(precisions.get(finerName), `precision ${finerName}`);
      const stored = new Uint8Array(finer.encodedBytes(rows, headDim));
      const values = new Float32Array(rows * headDim);
      for (let seed = 1; seed <= 50; seed++) {
        const exact = someRows().map((value) => Math.fround(value * Math.sin(seed)));
        finer.encode(exact, stored, headDim);
        finer.decode(stored, values, headDim);
        expect(encode(values)).toEqual(encode(exact));
      }
    }
  });

  it('reads and writes bytes at any offset', () => {
    const aligned = encode(someRows());
    const shifted = new Uint8Array(aligned.length + 2).fill(0xee);
    precision.encode(someRows(), shifted.subarray(1, -1), headDim);
    expect(shifted.subarray(1, -1)).toEqual(aligned);
    expect([shifted.at(0), shifted.at(-1)]).toEqual([0xee, 0xee]);
    expect(decode(shifted.subarray(1, -1))).toEqual(decode(aligned));
    expect(decode(Buffer.from(shifted.buffer).subarray(1, -1))).toEqual(decode(aligned));
  });

  it('treats lengths that do not belong together as a bug', () => {
    const encoded = encode(someRows());
    const short = encoded.subarray(1);
    expect(() => precision.encode(someRows(), short, headDim)).toThrow(AssertionError);
    expect(() => decode(short)).toThrow(AssertionError);
    expect(() => precision.decode(encoded, someRows().subarray(1), headDim)).toThrow(
      AssertionError,
    );
  });
});
