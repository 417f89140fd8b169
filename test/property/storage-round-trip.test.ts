import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import { openContextStore } from '../../storage/open-store.ts';
import { storeFolder } from '../support/storage-harness.ts';
import {
  collectPairs,
  expectedContent,
  expectedPairs,
  readWhole,
  sampleContext,
} from '../support/storage-samples.ts';

const shapes = fc.record({
  seed: fc.integer({ min: 1, max: 1_000_000 }),
  layers: fc.integer({ min: 1, max: 3 }),
  kvHeads: fc.integer({ min: 1, max: 3 }),
  // An f16, an int8 and an int4 row among them, and sizes of no alignment.
  rowBytes: fc.constantFrom(1, 7, 36, 68, 128, 256),
  prefixTokens: fc.constantFrom(0, 1, 40),
  kept: fc.array(fc.oneof(fc.constantFrom(0, 1), fc.integer({ min: 2, max: 1500 })), {
    minLength: 1,
    maxLength: 9,
  }),
  pieceBytes: fc.constantFrom(576, 4072, 65_512),
});

it('gives back every context of any shape, whole and in any part', async () => {
  const folder = storeFolder();
  const part = fc.double({ min: 0, max: 1, noNaN: true });
  const property = fc.asyncProperty(shapes, fc.tuple(part, part), check);
  async function check({ pieceBytes, ...shape }: Shape, parts: [number, number]): Promise<void> {
    const sample = sampleContext(shape);
    const store = await openContextStore({ folder, pieceBytes });
    await store.delete(sample.record.id);
    const written = await store.write(sample);
    await store.close();

    // Another piece size must not matter to a reader.
    const reopened = await openContextStore({ folder });
    expect(readWhole(reopened, sample)).toEqual({ stored: written, ...expectedContent(sample) });
    const { rows } = sample.pairs(0);
    const [from = 0, to = 0] = parts.map((part) => Math.floor(part * rows)).sort((a, b) => a - b);
    expect(collectPairs(reopened, { id: sample.record.id, head: 0, from, to })).toEqual(
      expectedPairs(sample, 0, { from, to }),
    );
    await reopened.close();
  }
  await fc.assert(property, { numRuns: 20 });
});

type Shape = typeof shapes extends fc.Arbitrary<infer T> ? T : never;
