import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ContextRecord } from '../../src/core/context.ts';
import { contextLengths } from '../../src/engine/context-rows.ts';
import { frameHeaderBytes } from '../../storage/frame.ts';
import { TestEngine } from '../support/engine.ts';
import { randomCheckpoint, type RandomCheckpoint } from '../support/random-checkpoint.ts';

const document =
  'The Marlow Observatory stands on a ridge above the village of Denby. Construction began in 1908 ' +
  'and took nearly three years; it opened to the public on 4 May 1911. Ada Finch laid its first ' +
  'stone, and her brother, who kept the mill, paid for the dome, the clock and both telescopes.';

/** 0.05, 0.1 … 1, and one that keeps next to nothing. */
const ratios = [0.004, ...Array.from({ length: 20 }, (_, i) => (i + 1) / 20)];

/** Rows that fit a piece of the store: few, so that a shorter prefix has fewer pieces. */
const rowsPerPiece = 2;
/** A key and a value of 16 halves. */
const rowBytes = 2 * 16 * 2;

let random: RandomCheckpoint;
let engine: TestEngine;
let bytesRead = 0;

beforeAll(async () => {
  random = await randomCheckpoint();
  engine = await TestEngine.open({
    checkpoint: random.checkpoint,
    storeOptions: {
      pieceBytes: frameHeaderBytes + rowsPerPiece * rowBytes,
      onRead: (bytes) => {
        bytesRead += bytes;
      },
    },
  });
});
afterAll(async () => {
  await engine.close();
  random.remove();
});

describe.each(['global', 'uniform'])('any keepRatio of one stored context, budget %s', (budget) => {
  let stored: ContextRecord;
  const fresh = new Map<number, ContextRecord>();

  beforeAll(async () => {
    for (const keepRatio of ratios) {
      const request = { compression: { method: 'kvzip', keepRatio, budget } };
      fresh.set(keepRatio, (await engine.ingest(document, { request })).record);
    }
    stored = fresh.get(1) as ContextRecord;
  });

  it('keeps exactly the pairs that an ingestion at that ratio keeps', () => {
    for (const [keepRatio, { id, pairCounts }] of fresh) {
      const lengths = contextLengths(engine.store, stored, keepRatio);
      expect([...lengths]).toEqual(pairCounts);
      for (const [head, length] of lengths.entries()) {
        const all = engine.store.readRanking(stored.id, head);
        const kept = length - stored.prefixTokens;
        const { positions, scores } = engine.store.readRanking(id, head);
        expect(all.positions.subarray(0, kept)).toEqual(positions);
        expect(all.scores.subarray(0, kept)).toEqual(scores);
      }
    }
  });

  it.each([
    ['rising', ratios],
    ['falling', ratios.toReversed()],
  ])('answers as that ingestion does, with ratios %s and the context loaded', async (_, order) => {
    await engine.restart();
    for (const keepRatio of order) {
      const { id } = fresh.get(keepRatio) as ContextRecord;
      const expected = await engine.answer(id);
      const answer = await engine.answer(stored.id, { keepRatio });
      expect(answer.answer).toBe(expected.answer);
      expect(answer.usage).toEqual(expected.usage);
      expect({ ...answer.cache, source: '' }).toEqual({ ...expected.cache, source: '' });
    }
  });

  it('reads the fewer bytes the smaller the ratio', async () => {
    let before = 0;
    for (const keepRatio of ratios) {
      await engine.restart();
      bytesRead = 0;
      const { cache } = await engine.answer(stored.id, { keepRatio });
      expect(cache.source).toBe('disk');
      expect(bytesRead).toBeGreaterThan(before);
      expect(bytesRead).toBeGreaterThanOrEqual(cache.bytes);
      // At most one row too many in each head.
      const heads = stored.pairCounts.length;
      expect(bytesRead).toBeLessThanOrEqual(cache.bytes + heads * (rowsPerPiece - 1) * rowBytes);
      before = bytesRead;
    }
  });

  it('reads every byte once while the ratio rises', async () => {
    await engine.restart();
    const wholePieces = stored.pairCounts.reduce((sum, count) => sum + count, 0) * rowBytes;
    bytesRead = 0;
    for (const keepRatio of ratios) await engine.answer(stored.id, { keepRatio });
    // A piece that was needed in part is read again for the rest of it, once for each row at most.
    expect(bytesRead).toBeLessThanOrEqual(rowsPerPiece * wholePieces);
    bytesRead = 0;
    for (const keepRatio of ratios) {
      expect((await engine.answer(stored.id, { keepRatio })).cache.source).toBe('host');
    }
    expect(bytesRead).toBe(0);
  });
});
