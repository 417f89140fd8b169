import { expect, it, onTestFinished, vi } from 'vitest';
import { systemClock } from '../../src/core/clock.ts';
import type { Claim } from '../../storage/claim.ts';
import { pieceBatch } from '../../storage/piece-batch.ts';
import { cutPieces, defaultPieceBytes, type Run } from '../../storage/pieces.ts';
import type { PieceBatch } from '../../storage/put-batch.ts';
import { Slab } from '../../storage/slab.ts';
import { BatchWriter } from '../../storage/threads/batch-writer.ts';
import { writeContext } from '../../storage/writer.ts';
import { putMark } from '../../storage/unfinished.ts';
import {
  entries,
  entryCounts,
  openStore,
  openTables,
  storeFolder,
} from '../support/storage-harness.ts';
import { expectedContent, largeSample, readWhole, sampleId } from '../support/storage-samples.ts';

const maxBytes = 100_000_000;

function openWriter() {
  const env = openTables(storeFolder());
  const writer = new BatchWriter({ env, maxBytes, fromBytes: 0 });
  onTestFinished(() => writer.close());
  const claim = env.transact(() => putMark(env, { id: sampleId(1), generation: 1 }, Date.now()));
  return { env, writer, claim };
}

/** Two pieces of one head's pairs. */
function batchOf(claim: Claim, layer = 0): PieceBatch {
  const run: Run = {
    kind: 'pairs',
    ...claim,
    layer,
    head: 0,
    precision: 'f16',
    rows: 20,
    rowBytes: 8,
  };
  const slab = new Slab(new ArrayBuffer(1024));
  const columns = [new Uint8Array(80).fill(7), new Uint8Array(80).fill(9)];
  const pieces = [...cutPieces(run, columns, 200, (bytes) => slab.allocate(bytes))];
  const ofSegments = pieces.map(({ key, value }) => ({ table: 'segments' as const, key, value }));
  return pieceBatch(claim, ofSegments, slab.memory);
}

it('takes the memory of a batch and gives it back when the batch is stored, or is not', async () => {
  const { env, writer, claim } = openWriter();
  // Until the thread has started it is stored here.
  expect(await writer.put(batchOf(claim, 1), 1)).toMatchObject({ isStored: true });
  await vi.waitFor(() => expect(writer.isReady).toBe(true), { timeout: 60_000 });

  const [batch, expected] = [batchOf(claim), batchOf(claim)];
  const stored = writer.put(batch, 1);
  const other = writer.put(batchOf(claim, 2), 1);
  const { isStored, memory } = await stored;
  expect(isStored).toBe(true);
  expect(batch.memory.byteLength).toBe(0);
  expect(Buffer.from(memory)).toEqual(Buffer.from(expected.memory));
  const values = entries(env, ['segments']).slice(0, 2);
  expect(values).toEqual(
    expected.pieces.map(({ table, key, start, byteLength }) => ({
      table,
      key,
      value: Buffer.from(expected.memory, start, byteLength),
    })),
  );
  expect(await other).toMatchObject({ isStored: true });

  const tooLarge = { ...batchOf(claim, 2), pages: maxBytes };
  const refused = { isStored: false, memory: batchOf(claim, 2).memory };
  expect(await writer.put(tooLarge, 1)).toEqual(refused);
  const ofAnother = batchOf({ ...claim, mark: Buffer.from('of another process') }, 3);
  await expect(writer.put(ofAnother, 1)).rejects.toMatchObject({ code: 'conflict' });
  expect(entryCounts(env)).toMatchObject({ segments: 6 });

  const sample = largeSample(2);
  await writeContext({ ...writeDeps, env, put: (each, bytes) => writer.put(each, bytes) }, sample);
  const store = await openStore({ folder: env.folder });
  const { tokens, heads, rankings } = readWhole(store, sample);
  expect({ tokens, heads, rankings }).toEqual(expectedContent(sample));
  await writer.close();
  await writer.close();
});

const writeDeps = {
  clock: systemClock,
  pieceBytes: defaultPieceBytes,
  usesThread: () => true,
  makeRoom: () => undefined,
  hasRoom: () => true,
  warn: () => undefined,
};

it('stores without a thread where there is none', async () => {
  const onError = vi.fn();
  const { env, claim } = openWriter();
  const writer = new BatchWriter({
    env: { ...env, folder: '/dev/null/no folder' },
    maxBytes,
    fromBytes: 0,
    onError,
  });
  expect(await writer.put(batchOf(claim), 1)).toMatchObject({ isStored: true });
  await vi.waitFor(() => expect(onError).toHaveBeenCalledOnce(), { timeout: 60_000 });
  expect(await writer.put(batchOf(claim, 1), 1)).toMatchObject({ isStored: true });
  expect(entryCounts(env)).toMatchObject({ segments: 4 });
  await writer.close();
});
