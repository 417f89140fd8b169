import { readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { ReadonceError } from '../../src/core/errors.ts';
import { frameHeaderBytes, encodeFrame } from '../../storage/frame.ts';
import type { ContextStore } from '../../storage/context-store.ts';
import { openContextStore } from '../../storage/open-store.ts';
import { exportContext } from '../../storage/portable/export.ts';
import { portableLimits, preambleBytes } from '../../storage/portable/format.ts';
import { importContext, type ImportTarget } from '../../storage/portable/import.ts';
import {
  exportFile,
  forgeFile,
  inParts,
  portableSample,
  targetFor,
  type Forgery,
} from '../support/portable-samples.ts';
import { openStore, storeFolder } from '../support/storage-harness.ts';
import { expectedContent, readWhole, sampleContext } from '../support/storage-samples.ts';

const sample = portableSample({ seed: 7, usage: { labels: { source: 'handbook' } } });
const { record } = sample;

/** A small file: two heads, one of them with nothing of the document. */
const small = portableSample({ seed: 8, layers: 1, kept: [2, 0] });
const smallFile = forgeFile(small);
const smallTarget = { model: { ...small.record.model, layout: small.record.layout } };

/** The sample in a store, and its file. */
async function exported(): Promise<{ readonly store: ContextStore; readonly file: Buffer }> {
  const store = await openStore();
  await store.write(sample);
  return { store, file: await exportFile(store, record.id) };
}

/** The error that refuses a file. */
async function refusal(
  file: Uint8Array,
  store: ContextStore,
  change: Partial<ImportTarget> = {},
): Promise<ReadonceError> {
  const error: unknown = await importContext(inParts(file), targetFor(store, sample, change)).catch(
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof ReadonceError)) throw new Error('Expected a refusal.', { cause: error });
  return error;
}

function expectNothingKept(store: ContextStore): void {
  expect(store.stats()).toMatchObject({ contexts: 0, unfinished: 0 });
  expect(readdirSync(store.folder).toSorted()).toEqual(['data.mdb', 'lock.mdb']);
}

describe('a context file', () => {
  it('brings back everything but the use, in another store', async () => {
    const { store, file } = await exported();
    const other = await openStore({ pieceBytes: 568 });
    const { stored, reused } = await importContext(inParts(file, 7), targetFor(other, sample));
    expect(reused).toBe(false);
    expect(stored.record).toEqual(store.get(record.id)?.record);
    expect(stored.usage).toEqual({
      lastUsedAtMs: 1_800_000_000_000,
      expiresAtMs: null,
      pinned: false,
      labels: { source: 'handbook' },
    });
    expect(readWhole(other, sample)).toEqual({ stored, ...expectedContent(sample) });
  });

  it('has the same bytes, whatever the size of the pieces it was stored in', async () => {
    const { file } = await exported();
    const other = await openStore({ pieceBytes: 568 });
    await importContext(inParts(file), targetFor(other, sample));
    expect((await exportFile(other, record.id)).equals(file)).toBe(true);
    expect(forgeFile(sample, { manifest: { record, labels: { source: 'handbook' } } })).toEqual(
      file,
    );
  });

  it('may have runs of several frames', async () => {
    const large = portableSample({ seed: 3, layers: 1, rowBytes: 512, kept: [2500, 0] });
    const [first, second] = [await openStore(), await openStore()];
    await first.write(large);
    const parts = exportContext(first, large.record.id);
    await importContext(parts, targetFor(second, large));
    expect(readWhole(second, large)).toEqual({
      stored: second.get(large.record.id),
      ...expectedContent(large),
    });
    const sizes = (await exportFile(second, large.record.id)).byteLength;
    expect(sizes).toBeGreaterThan(2 * portableLimits.frameBytes);
  });

  it('is read part by part: nothing of the store is held between two', async () => {
    const large = portableSample({ seed: 3, layers: 1, rowBytes: 512, kept: [2500, 0] });
    const store = await openStore();
    await store.write(large);
    const parts = exportContext(store, large.record.id);
    await parts.next();
    await store.delete(large.record.id);
    const rest = async () => {
      for await (const part of parts) expect(part.byteLength).toBeGreaterThan(0);
    };
    await expect(rest()).rejects.toMatchObject({ code: 'not_found' });
  });

  it('cannot be made of an unknown context', async () => {
    const parts = exportContext(await openStore(), record.id);
    await expect(parts.next()).rejects.toMatchObject({ code: 'not_found' });
  });

  it('gives the context the id of its new owner, and is the same file from every owner', async () => {
    const { file } = await exported();
    const store = await openStore();
    const owner = { tenant: 'acme', tenantSalt: 'salt' };
    const { stored } = await importContext(inParts(file), targetFor(store, sample, { owner }));
    const theirs = portableSample({ seed: 7, ...owner });
    expect(theirs.record.id).not.toBe(record.id);
    expect(stored.record).toMatchObject({ id: theirs.record.id, family: theirs.record.family });
    expect(readWhole(store, theirs)).toEqual({ stored, ...expectedContent(theirs) });
    const again = await exportFile(store, theirs.record.id);
    expect(again.equals(file)).toBe(true);
    expect(again.includes('acme')).toBe(false);
  });
});

describe('importing', () => {
  it('keeps a context that is stored already as it is', async () => {
    const { store, file } = await exported();
    const before = store.get(record.id);
    const { stored, reused } = await importContext(inParts(file), targetFor(store, sample));
    expect({ stored, reused }).toEqual({ stored: before, reused: true });
    const damagedFile = Buffer.from(file);
    damagedFile.writeUInt8(damagedFile.readUInt8(file.byteLength - 40) ^ 1, file.byteLength - 40);
    await expect(
      importContext(inParts(damagedFile), targetFor(store, sample)),
    ).rejects.toMatchObject({ code: 'invalid_argument' });
  });

  it('refuses a file that ends anywhere before its end, or goes on behind it', async () => {
    const store = await openStore();
    for (let length = 0; length < smallFile.byteLength; length++) {
      const error = await refusal(smallFile.subarray(0, length), store, smallTarget);
      if (error.code !== 'invalid_argument') expect.fail(`${length} bytes: ${error.code}`);
    }
    const longer = Buffer.concat([smallFile, Buffer.of(0)]);
    expect((await refusal(longer, store, smallTarget)).message).toContain('bytes behind its end');
    expectNothingKept(store);
  });

  it('refuses a file with any byte changed', async () => {
    const store = await openStore();
    for (const [i, byte] of smallFile.entries()) {
      const flipped = Buffer.from(smallFile);
      flipped[i] = byte ^ (1 << (i % 8));
      const error = await refusal(flipped, store, smallTarget);
      if (error.code !== 'invalid_argument') expect.fail(`byte ${i}: ${error.code}`);
    }
    expectNothingKept(store);
  });

  it('refuses a context of another model as identity_mismatch', async () => {
    const { file } = await exported();
    const model = { fingerprint: 'sha256:ff', layout: record.layout };
    const error = await refusal(file, await openStore(), { model });
    expect(error.code).toBe('identity_mismatch');
    expect(error.message).toContain('sha256:ff');
    expect(error.message).toContain(record.model.fingerprint);
  });

  it('refuses as storage_full what does not fit the quota, and keeps what is pinned', async () => {
    const { file } = await exported();
    const folder = storeFolder();
    const pinned = sampleContext({ seed: 1, usage: { pinned: true } });
    const filled = await openContextStore({ folder });
    await filled.write(pinned);
    const { usedBytes } = filled.stats();
    await filled.close();
    // A write asks for 64 pages to spare and what the context takes.
    const store = await openStore({ folder, maxBytes: usedBytes + 200_000 });
    expect((await refusal(file, store)).code).toBe('storage_full');
    expect(store.get(record.id)).toBeUndefined();
    expect(store.get(pinned.record.id)).toBeDefined();
  });

  it('stops when its signal aborts, and keeps nothing', async () => {
    const { file } = await exported();
    const store = await openStore();
    const controller = new AbortController();
    async function* parts(): AsyncGenerator<Uint8Array> {
      yield* inParts(file.subarray(0, -50));
      controller.abort(new Error('left'));
      yield* inParts(file.subarray(-50));
    }
    const importing = importContext(parts(), targetFor(store, sample), controller.signal);
    await expect(importing).rejects.toThrow('left');
    expectNothingKept(store);
  });
});

function withRecord(change: object): Forgery {
  return { manifest: { record: { ...record, ...change }, labels: {} } };
}

function withRanking(positions: readonly number[], scores: readonly number[]): Forgery {
  return {
    ranking: (head) =>
      head === 0
        ? { positions: Uint32Array.from(positions), scores: Float32Array.from(scores) }
        : sample.ranking(head),
  };
}

const { pairCounts, document, layout } = record;
const counts = (first: number) => ({ pairCounts: pairCounts.with(0, first) });
const tooManyLabels = Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`k${i}`, 'v']));

describe('a file with right checksums', () => {
  it('is taken if all in it is right', async () => {
    const store = await openStore();
    const { stored } = await importContext(inParts(forgeFile(sample)), targetFor(store, sample));
    expect(readWhole(store, sample)).toEqual({ stored, ...expectedContent(sample) });
  });

  it.each<[string, Forgery, RegExp]>([
    ['no JSON for a manifest', { manifest: undefined, frames: [] }, /ends too early/],
    ['a manifest of another shape', { manifest: [] }, /unexpected content/],
    ['an unknown field', withRecord({ more: 1 }), /unexpected content/],
    ['a nameless field', { manifest: { record } }, /unexpected content/],
    ['too many labels', { manifest: { record, labels: tooManyLabels } }, /unexpected content/],
    ['a long label', { manifest: { record, labels: { k: 'v'.repeat(257) } } }, /unexpected/],
    ['another id in its manifest', withRecord({ id: `ctx_${'0'.repeat(40)}` }), /another context/],
    ['an id other than its tokens make', { tokens: new Int32Array(8) }, /an id other/],
    ['an id other than its ratio makes', withRecord({ chunkTokens: 1 }), /an id other/],
    ['another family', withRecord({ family: `fam_${'0'.repeat(40)}` }), /a family other/],
    ['another layout', withRecord({ layout: { ...layout, group: 3 } }), /a layout other/],
    ['too few heads', withRecord({ pairCounts: [8] }), /unexpected content/],
    ['a head without the prefix', withRecord(counts(2)), /without the whole prefix/],
    ['more pairs than tokens', withRecord(counts(9)), /more pairs than tokens/],
    ['fewer pairs than come', withRecord(counts(7)), /a wrong number of rows/],
    [
      'a huge document',
      withRecord({ document: { ...document, tokens: 2 ** 40 } }),
      /1048576 tokens/,
    ],
    ['no document', withRecord({ document: { ...document, tokens: 0 } }), /no document token/],
    ['a long name', withRecord({ tenant: 'x'.repeat(257) }), /text that is too long/],
    ['an owner', withRecord({ tenant: 'acme' }), /has an owner/],
    ['a far future', withRecord({ createdAtMs: Number.MAX_SAFE_INTEGER }), /year 9999/],
    ['a position twice', withRanking([4, 3, 3, 2, 1], [9, 8, 7, 6, 5]), /twice/],
    ['a position outside', withRanking([5, 3, 2, 1, 0], [9, 8, 7, 6, 5]), /outside/],
    ['a worse score first', withRanking([4, 3, 2, 1, 0], [9, 8, 8.5, 6, 5]), /out of order/],
    ['equal scores out of order', withRanking([4, 3, 2, 1, 0], [9, 8, 8, 6, 5]), /out of order/],
    ['a score of NaN', withRanking([4, 3, 2, 1, 0], [9, NaN, 8, 6, 5]), /no finite/],
    ['an infinite score', withRanking([4, 3, 2, 1, 0], [Infinity, 9, 8, 6, 5]), /no finite/],
  ])('is refused for %s', async (_, forgery, reason) => {
    const store = await openStore();
    const error = await refusal(forgeFile(sample, forgery), store);
    expect(error.code).toBe('invalid_argument');
    expect(error.message).toMatch(reason);
    expectNothingKept(store);
  });

  it('is refused for rows of another size than its precision has', async () => {
    const error = await refusal(forgeFile(sample), await openStore(), { rowBytes: () => 8 });
    expect(error.message).toMatch(/rows of another size/);
  });

  it('is refused for heads of more bytes than may be held', async () => {
    const error = await refusal(forgeFile(sample), await openStore(), { rowBytes: () => 2 ** 19 });
    expect(error.message).toMatch(/pairs that are too large/);
  });

  it('is refused for a frame that claims to be huge, before anything is held for it', async () => {
    const header = { kind: 'tokens', precision: '', id: record.id, layer: 0, head: 0 } as const;
    const frame = encodeFrame({ ...header, firstRank: 0, count: 8 }, [Buffer.alloc(32)]);
    frame.writeUInt32LE(2 ** 32 - 1, 48);
    const file = forgeFile(sample, { frames: [frame] });
    const store = await openStore();
    const before = process.memoryUsage().arrayBuffers;
    expect((await refusal(file, store)).message).toMatch(/too long/);
    // The claim is 4 GiB; the bound leaves room for what anything else in the process does.
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(64 * 2 ** 20);
  });

  it('is refused for a manifest larger than its limit', async () => {
    const file = Buffer.from(forgeFile(sample));
    file.writeUInt32LE(portableLimits.manifestBytes - frameHeaderBytes + 1, preambleBytes + 48);
    expect((await refusal(file, await openStore())).message).toMatch(/too long/);
  });
});
