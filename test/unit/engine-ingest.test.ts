import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { reconstructionPasses } from '../../src/compression/reconstruction.ts';
import { resolvePrecision } from '../../src/compression/registry.ts';
import { concatenate } from '../../src/core/concatenate.ts';
import { contextTokens, type StoredContext } from '../../src/core/context.ts';
import { headCount } from '../../src/core/kv-layout.ts';
import { tokenizeDocument } from '../../src/engine/document.ts';
import type { IngestProgress } from '../../src/engine/protocol.ts';
import { runPieces } from '../../src/runtime/run-pieces.ts';
import type { ContextCache } from '../../src/runtime/runtime.ts';
import { expectClose } from '../contract/runtime/subject.ts';
import { ingestRequest, TestEngine } from '../support/engine.ts';
import { acquire } from '../support/loaded-contexts.ts';
import { forwardAlone, request } from '../support/ragged.ts';
import { randomCheckpoint, type RandomCheckpoint } from '../support/random-checkpoint.ts';

const document =
  'The Marlow Observatory stands on a ridge above the village of Denby. Construction began in 1908 ' +
  'and took nearly three years; it opened to the public on 4 May 1911.';

let random: RandomCheckpoint;
let engine: TestEngine;

beforeAll(async () => {
  random = await randomCheckpoint();
  // Slices that cut both the prefill and the reconstruction pass several times.
  engine = await TestEngine.open({ checkpoint: random.checkpoint, sliceTokens: 16 });
});
afterAll(async () => {
  await engine.close();
  random.remove();
});

function ingest(compression: Record<string, unknown> = {}): Promise<StoredContext> {
  return engine.ingest(document, { request: { compression } });
}

function sum(counts: readonly number[]): number {
  return counts.reduce((total, count) => total + count, 0);
}

describe('the pairs that are kept', () => {
  it.each([0.001, 0.17, 0.2, 0.3, 0.55, 1])('are counted exactly at %d', async (keepRatio) => {
    const { record } = await ingest({ keepRatio });
    const heads = headCount(record.layout);
    const ofDocument = Math.round(keepRatio * heads * record.document.tokens);
    expect(sum(record.pairCounts)).toBe(ofDocument + heads * record.prefixTokens);
    for (const [head, count] of record.pairCounts.entries()) {
      expect(count).toBeGreaterThanOrEqual(record.prefixTokens);
      const { positions } = engine.store.readRanking(record.id, head);
      expect(new Set(positions).size).toBe(count - record.prefixTokens);
      expect(Math.max(-1, ...positions)).toBeLessThan(record.document.tokens);
    }
  });

  it('are as many in every head with budget uniform', async () => {
    const { record } = await ingest({ budget: 'uniform', keepRatio: 0.3 });
    const expected = record.prefixTokens + Math.round(0.3 * record.document.tokens);
    expect(new Set(record.pairCounts)).toEqual(new Set([expected]));
  });

  it('are stored best first', async () => {
    const { record } = await ingest({ keepRatio: 0.5 });
    for (const head of record.pairCounts.keys()) {
      const { scores } = engine.store.readRanking(record.id, head);
      expect(scores).toEqual(scores.toSorted().reverse());
    }
  });

  it('take fewer bytes in memory and on disk the fewer they are', async () => {
    const [small, large] = [await ingest({ keepRatio: 0.2 }), await ingest({ keepRatio: 1 })];
    expect(small.storedBytes).toBe(sum(small.record.pairCounts) * 2 * 16 * 2);
    expect(large.storedBytes).toBe(sum(large.record.pairCounts) * 2 * 16 * 2);
    expect(small.diskBytes).toBeLessThan(large.diskBytes);
  });
});

describe('a query on a stored context', () => {
  it.each([
    { precision: 'f16', keepRatio: 0.3 },
    { precision: 'f32', keepRatio: 0.3 },
    { precision: 'f16', keepRatio: 1 },
  ])('has the logits it had before a reload: $precision at $keepRatio', async (compression) => {
    const { record } = await ingest(compression);
    const { tokenizer, template } = random.checkpoint;
    const ids = concatenate(tokenizer.encode('\n\nWhen did it open?'), template.suffixIds);
    const startPosition = contextTokens(record);
    const { runtime } = engine;
    const before = request(runtime, keptInDocumentOrder(record));
    const expected = forwardAlone(runtime, before, { ids, startPosition });
    await engine.restart();
    const { keepRatio } = compression;
    const context = acquire(engine.loaded, { record, keepRatio, tailTokens: ids.length });
    const after = { context: context.view, tail: runtime.createTail() };
    const logits = forwardAlone(runtime, after, { ids, startPosition });
    engine.loaded.release(context);
    // Logits are up to 10; only the order of the rows differs, hence that of float32 sums.
    expectClose(logits, expected, 1e-4);
  });
});

/** The kept pairs from a prefill of its own, rounded as stored, without going through the store. */
function keptInDocumentOrder({
  id,
  layout,
  compression,
  prefixTokens,
}: StoredContext['record']): ContextCache {
  const { prefixIds, documentIds } = engine.store.tokenIds(id);
  const dense = engine.runtime.createDense(prefixIds.length + documentIds.length);
  runPieces(engine.runtime.prefill(dense, concatenate(prefixIds, documentIds)));
  const precision = resolvePrecision(compression.precision);
  const rows = Array.from({ length: headCount(layout) }, (_, head) => {
    const { positions } = engine.store.readRanking(id, head);
    return [
      ...Array(prefixTokens).keys(),
      ...Array.from(positions.toSorted(), (position) => prefixTokens + position),
    ];
  });
  const lengths = Uint32Array.from(rows, ({ length }) => length);
  const cache = engine.runtime.createContext(lengths);
  for (const [head, ofHead] of rows.entries()) {
    const pairs = dense.pairs(head, Uint32Array.from(ofHead), precision);
    cache.write(head, 0, pairs, precision);
  }
  return cache;
}

describe('an ingestion', () => {
  it('stores what it was made from', async () => {
    const request = {
      tenant: 'tenant',
      instructions: 'Be brief.',
      createdAtMs: 12_345,
      usage: { ttlMs: 60_000, pinned: true, labels: { source: 'test' } },
      compression: { keepRatio: 0.4 },
    };
    let persistingAtMs = Infinity;
    const onProgress = ({ phase }: IngestProgress): void => {
      if (phase === 'persist') persistingAtMs = Date.now();
    };
    const stored = await engine.ingest(document, { request, onProgress });
    const { record, usage } = engine.store.get(stored.record.id) ?? stored;
    const { tokenizer, template, id, fingerprint } = random.checkpoint;
    expect(record).toMatchObject({
      tenant: 'tenant',
      model: { id, fingerprint },
      document: {
        bytes: Buffer.byteLength(document),
        tokens: tokenizer.encode(document).length,
      },
      compression: { method: 'kvzip', keepRatio: 0.4, budget: 'global', precision: 'f16' },
      prefixTokens: template.prefixIds('Be brief.').length,
    });
    expect(record.document.sha256).toMatch(/^[0-9a-f]{64}$/);
    expect(record.createdAtMs).toBe(12_345);
    const { pinned, labels } = request.usage;
    expect(usage).toMatchObject({ pinned, labels, lastUsedAtMs: 12_345 });
    // It counts from the last piece of work at the earliest.
    expect(usage.expiresAtMs).toBeGreaterThanOrEqual(persistingAtMs + 60_000);
    const ids = engine.store.tokenIds(record.id);
    expect(ids.prefixIds).toEqual(template.prefixIds('Be brief.'));
    expect(ids.documentIds).toEqual(tokenizer.encode(document));
  });

  it('tells its progress, phase by phase and to the end', async () => {
    const events: IngestProgress[] = [];
    const { record } = await engine.ingest(document, {
      request: { compression: { keepRatio: 0.35 } },
      onProgress: (progress) => events.push(progress),
    });
    expect([...new Set(events.map(({ phase }) => phase))]).toEqual(['prefill', 'score', 'persist']);
    const totals = {
      prefill: contextTokens(record),
      score: record.document.tokens,
      persist: headCount(record.layout),
    };
    for (const [phase, total] of Object.entries(totals)) {
      const ofPhase = events.filter((event) => event.phase === phase);
      expect(ofPhase.length).toBeGreaterThan(2);
      expect(new Set(ofPhase.map((event) => event.total))).toEqual(new Set([total]));
      const done = ofPhase.map((event) => event.done);
      expect(done).toEqual(done.toSorted((a, b) => a - b));
      expect(done.at(-1)).toBe(total);
    }
  });

  it('gives the same context whatever the slices', async () => {
    const { record } = await ingest({ keepRatio: 0.45 });
    const whole = await TestEngine.open({ checkpoint: random.checkpoint, sliceTokens: 1000 });
    const request = { compression: { keepRatio: 0.45 } };
    const other = (await whole.ingest(document, { request })).record;
    expect(other.id).toBe(record.id);
    expect(other.pairCounts).toEqual(record.pairCounts);
    for (const head of record.pairCounts.keys()) {
      const expected = engine.store.readRanking(record.id, head);
      const ranking = whole.store.readRanking(record.id, head);
      // Neighbours may swap where scores are equal to float32 rounding.
      expect(ranking.positions.toSorted()).toEqual(expected.positions.toSorted());
      expectClose(ranking.scores, expected.scores, 1e-5);
    }
    await whole.close();
  });

  it('scores a document of several chunks pass by pass, each as if it were alone', async () => {
    const text = `${document} `.repeat(11).trim();
    const request = { compression: { keepRatio: 1 } };
    const { record } = await engine.ingest(text, { request });
    const { plan } = tokenizeDocument(random.checkpoint, ingestRequest(text));
    const passes = reconstructionPasses(plan);
    expect(passes.length).toBeGreaterThan(1);
    const { prefixIds, documentIds } = engine.store.tokenIds(record.id);
    const passStart = prefixIds.length + documentIds.length;
    for (const { promptIds, chunkStart, chunkEnd } of passes) {
      const dense = engine.runtime.createDense(1024);
      runPieces(engine.runtime.prefill(dense, concatenate(prefixIds, documentIds)));
      const chunk = chunkEnd - chunkStart;
      const scores = new Float32Array(headCount(record.layout) * chunk);
      const slice = {
        ids: concatenate(promptIds, documentIds.subarray(chunkStart, chunkEnd)),
        sinkEnd: prefixIds.length,
        chunkStart: prefixIds.length + chunkStart,
        chunkEnd: prefixIds.length + chunkEnd,
        passStart,
        scores,
      };
      runPieces(engine.runtime.score(dense, slice));
      for (const head of record.pairCounts.keys()) {
        const ranking = engine.store.readRanking(record.id, head);
        const byPosition = new Float32Array(documentIds.length);
        for (const [rank, position] of ranking.positions.entries()) {
          byPosition[position] = ranking.scores[rank] ?? NaN;
        }
        const expected = scores.subarray(head * chunk, (head + 1) * chunk);
        // Float32 sums of other slices.
        expectClose(byPosition.subarray(chunkStart, chunkEnd), expected, 1e-5);
      }
    }
  });

  it.each(['prefill', 'score', 'persist'])(
    'that is cancelled in %s leaves nothing',
    async (phase) => {
      const cancellation = new AbortController();
      const text = `${document} Cancelled in ${phase}.`;
      const cancelled = engine.ingest(text, {
        onProgress: (progress) => {
          if (progress.phase === phase) cancellation.abort(new Error('gave up'));
        },
        signal: cancellation.signal,
      });
      await expect(cancelled).rejects.toThrow('gave up');
      const { id } = tokenizeDocument(random.checkpoint, ingestRequest(text));
      expect(engine.store.get(id)).toBeUndefined();
      await expect(engine.store.sweep()).resolves.toBe(0);
      await expect(engine.ingest(text)).resolves.toMatchObject({ record: { id } });
    },
  );

  it('lets answers on other contexts finish while it runs', async () => {
    const { record } = await ingest();
    const order: string[] = [];
    const long = `${document} `.repeat(8).trim();
    const request = { compression: { method: 'none', keepRatio: 1 } };
    const ingestion = engine.ingest(long, { request }).then(() => order.push('ingestion'));
    const answer = engine
      .answer(record.id, { sampling: { maxTokens: 4 } })
      .then(() => order.push('answer'));
    await Promise.all([ingestion, answer]);
    expect(order).toEqual(['answer', 'ingestion']);
  });
});
