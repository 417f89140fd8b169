import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import { ReadonceError } from '../../src/core/errors.ts';
import type { ContextStore } from '../../storage/context-store.ts';
import { importContext } from '../../storage/portable/import.ts';
import { forgeFile, inParts, portableSample, targetFor } from '../support/portable-samples.ts';
import { openStore } from '../support/storage-harness.ts';
import { expectedContent, readWhole } from '../support/storage-samples.ts';

const sample = portableSample({ seed: 11 });
const file = forgeFile(sample);

/** Bytes that one import may hold beside the file: some frames, far below what a length claims. */
const heldBytes = 64 * 2 ** 20;

/** Refuses `bytes` cleanly: by an error of ours that blames the file, nothing stored. */
async function expectRefused(store: ContextStore, bytes: Uint8Array): Promise<void> {
  const before = process.memoryUsage().arrayBuffers;
  const thrown: unknown = await importContext(inParts(bytes), targetFor(store, sample)).catch(
    (error: unknown) => error,
  );
  if (!(thrown instanceof ReadonceError)) throw new Error('expected a refusal', { cause: thrown });
  expect(thrown.code).toBe('invalid_argument');
  expect(store.get(sample.record.id)).toBeUndefined();
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(heldBytes);
}

it('refuses random bytes, with and without a right beginning', async () => {
  const store = await openStore();
  const bytes = fc.uint8Array({ maxLength: 4000 });
  const beginning = fc.integer({ min: 0, max: file.byteLength - 33 });
  await fc.assert(
    fc.asyncProperty(beginning, bytes, async (length, noise) => {
      const mixed = Buffer.concat([file.subarray(0, length), noise]);
      fc.pre(!mixed.equals(file));
      await expectRefused(store, mixed);
    }),
    { numRuns: 300 },
  );
});

it('refuses a file with bytes changed, inserted or removed', async () => {
  const store = await openStore();
  const edit = fc.record({
    at: fc.nat(file.byteLength - 1),
    removed: fc.nat(64),
    inserted: fc.uint8Array({ maxLength: 64 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(edit, { minLength: 1, maxLength: 4 }), async (edits) => {
      const changed = edits.reduce(
        (bytes, { at, removed, inserted }) =>
          Buffer.concat([bytes.subarray(0, at), inserted, bytes.subarray(at + removed)]),
        file,
      );
      fc.pre(!changed.equals(file));
      await expectRefused(store, changed);
    }),
    { numRuns: 300 },
  );
});

it('refuses 32-bit numbers of any size in any place, checksums or not', async () => {
  const store = await openStore();
  const number = fc.oneof(fc.constantFrom(0, 1, 2 ** 31, 2 ** 32 - 1), fc.nat(2 ** 32 - 1));
  await fc.assert(
    fc.asyncProperty(fc.nat(file.byteLength - 4), number, async (at, value) => {
      const changed = Buffer.from(file);
      changed.writeUInt32LE(value, at);
      fc.pre(!changed.equals(file));
      await expectRefused(store, changed);
    }),
    { numRuns: 300 },
  );
});

it('stores a manifest with right checksums whole and consistent, or not at all', async () => {
  const { record } = sample;
  const count = fc.oneof(fc.nat(10), fc.constantFrom(-1, 0.5, 2 ** 31, 2 ** 53, 1e300));
  const change = fc.record(
    {
      pairCounts: fc.array(count, { minLength: 3, maxLength: 5 }),
      prefixTokens: count,
      methodVersion: count,
      layout: fc.record({ layers: count, kvHeads: count, group: count, headDim: count }),
      document: fc.record({ bytes: count, tokens: count, sha256: fc.string() }),
      more: fc.anything(),
    },
    { requiredKeys: [] },
  );
  await fc.assert(
    fc.asyncProperty(change, async (changes) => {
      const store = await openStore();
      const manifest = { record: { ...record, ...changes }, labels: {} };
      const forged = forgeFile(sample, { manifest });
      const imported = await importContext(inParts(forged), targetFor(store, sample)).catch(
        (error: unknown) => error,
      );
      if (imported instanceof ReadonceError) {
        expect(imported.code).toBe('invalid_argument');
        expect(store.get(record.id)).toBeUndefined();
      } else {
        const stored = store.get(record.id);
        expect(readWhole(store, sample)).toEqual({ stored, ...expectedContent(sample) });
      }
      await store.close();
    }),
    { numRuns: 60 },
  );
});
