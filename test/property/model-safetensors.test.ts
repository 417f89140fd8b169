import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ReadonceError } from '../../src/core/errors.ts';
import { parseSafetensorsHeader } from '../../src/model/safetensors.ts';
import type { SafetensorsHeader } from '../../src/model/safetensors.ts';

const file = 'any.safetensors';

/** A correct header: tensors of float types one behind the other. */
const goodHeader = fc
  .uniqueArray(
    fc.record({
      name: fc.string({ minLength: 1 }).filter((name) => !name.startsWith('__')),
      dtype: fc.constantFrom('F32', 'F16', 'BF16'),
      shape: fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 3 }),
    }),
    { selector: ({ name }) => name, maxLength: 6 },
  )
  .map((tensors) => {
    const header: Record<string, unknown> = {};
    let end = 0;
    for (const { name, dtype, shape } of tensors) {
      const start = end;
      end += shape.reduce((product, size) => product * size, dtype === 'F32' ? 4 : 2);
      header[name] = { dtype, shape, data_offsets: [start, end] };
    }
    return { header, tensors, dataBytes: end };
  });

function parse(text: string, dataBytes: number): SafetensorsHeader {
  const bytes = Buffer.from(text, 'utf8');
  return parseSafetensorsHeader(bytes, { sizeBytes: 8 + bytes.byteLength + dataBytes, file });
}

/** The header, or undefined if it was refused as it must be. */
function parseOrRefuse(text: string, dataBytes: number): SafetensorsHeader | undefined {
  try {
    return parse(text, dataBytes);
  } catch (error) {
    expect(error).toBeInstanceOf(ReadonceError);
    expect(error).toMatchObject({ code: 'invalid_argument' });
    return undefined;
  }
}

/** What is accepted covers the data exactly, whatever the header says. */
function expectCovered(header: SafetensorsHeader, text: string, dataBytes: number): void {
  const dataStart = 8 + Buffer.byteLength(text);
  const covered = header.entries.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  expect(covered).toBe(dataBytes);
  for (const { offsetBytes, sizeBytes } of header.entries) {
    expect(offsetBytes).toBeGreaterThanOrEqual(dataStart);
    expect(offsetBytes + sizeBytes).toBeLessThanOrEqual(dataStart + dataBytes);
  }
}

describe('safetensors headers', () => {
  it('that are correct are read as written', () => {
    fc.assert(
      fc.property(goodHeader, ({ header, tensors, dataBytes }) => {
        const { entries } = parse(JSON.stringify(header), dataBytes);
        const read = entries.map(({ name, dtype, shape }) => ({ name, dtype, shape }));
        expect(read).toHaveLength(tensors.length);
        expect(read).toEqual(expect.arrayContaining([...tensors]));
      }),
    );
  });

  it('of any JSON are refused with a reason or cover the data exactly', () => {
    fc.assert(
      fc.property(fc.json(), fc.nat(64), (text, dataBytes) => {
        const header = parseOrRefuse(text, dataBytes);
        if (header !== undefined) expectCovered(header, text, dataBytes);
      }),
    );
  });

  it('with some characters changed are refused with a reason or cover the data exactly', () => {
    const edit = fc.record({
      at: fc.nat(1000),
      text: fc.constantFrom('0', '9', '-', '"', ',', ''),
    });
    fc.assert(
      fc.property(goodHeader, fc.array(edit, { minLength: 1, maxLength: 3 }), (good, edits) => {
        let text = JSON.stringify(good.header);
        for (const { at, text: piece } of edits) {
          const place = at % text.length;
          text = text.slice(0, place) + piece + text.slice(place + 1);
        }
        const header = parseOrRefuse(text, good.dataBytes);
        if (header !== undefined) expectCovered(header, text, good.dataBytes);
      }),
      { numRuns: 500 },
    );
  });
});
