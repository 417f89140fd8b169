import { expect, test } from 'vitest';
import type { ContextUsage, StoredContext } from '../../src/core/context.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import type { PendingContext } from '../../src/service/context-view.ts';
import { Ingestion, type IngestionWork } from '../../src/service/ingestion.ts';
import { Ingestions, type IngestionObserver } from '../../src/service/ingestions.ts';
import { usageChange } from '../../src/service/usage-change.ts';
import { Gate } from '../support/fake-engine.ts';

const usage: ContextUsage = { lastUsedAtMs: 1, expiresAtMs: null, pinned: false, labels: {} };
const pending = (id: string): PendingContext => ({
  id,
  tenant: '',
  model: { id: 'm', fingerprint: 'f' },
  document: { bytes: 1, tokens: 1, sha256: 's' },
  compression: { method: 'none', keepRatio: 1, budget: 'global', precision: 'f16' },
  usage,
  createdAtMs: 1,
});

const stored = (used: ContextUsage): StoredContext => ({
  record: {
    id: 'a',
    family: 'fam_a',
    tenant: '',
    model: { id: 'm', fingerprint: 'f' },
    document: { bytes: 1, tokens: 1, sha256: 's' },
    compression: { method: 'none', keepRatio: 1, budget: 'global', precision: 'f16' },
    methodVersion: 1,
    chunkTokens: 0,
    fidelity: null,
    layout: { layers: 1, kvHeads: 1, group: 1, headDim: 1 },
    prefixTokens: 1,
    pairCounts: [2],
    timings: { prefillMs: 0, scoreMs: 0, persistMs: 0, totalMs: 0 },
    createdAtMs: 1,
  },
  usage: used,
  storedBytes: 8,
  diskBytes: 8,
});

const storedAtMs = 9000;

/** Work that goes on when the gate opens. */
function gatedWork(gate: Gate): IngestionWork {
  let current = usage;
  return {
    async ingest(onProgress, signal) {
      onProgress({ phase: 'prefill', done: 1, total: 2 });
      await gate.pass(signal);
      onProgress({ phase: 'prefill', done: 2, total: 2 });
      return { stored: stored(current), derived: false, found: false };
    },
    async update(change) {
      current = { ...current, ...usageChange(change, storedAtMs) };
      return stored(current);
    },
  };
}

test('a time to live counts from when the context is stored', async () => {
  const gate = new Gate();
  const ingestion = new Ingestion(pending('a'), gatedWork(gate));
  expect(ingestion.changeUsage({ ttlSeconds: 2, pinned: true }, 1000)).toBe(true);
  expect(ingestion.changeUsage({ pinned: false }, 2000)).toBe(true);
  expect(ingestion.pending.usage).toMatchObject({ expiresAtMs: 3000, pinned: false });
  gate.open();
  const { usage: used } = (await ingestion.result).stored;
  expect(used).toMatchObject({ expiresAtMs: storedAtMs + 2000, pinned: false });
});

const silent: IngestionObserver = {
  onStarted: () => undefined,
  onReady: () => undefined,
  onFailed: () => undefined,
  onCancelled: () => undefined,
  onSettled: () => undefined,
};

const failing: IngestionWork = {
  ingest: () => Promise.reject(new ReadonceError('storage_full', 'full')),
  update: () => Promise.resolve(undefined),
};

test('who follows late gets the latest progress first, then the rest', async () => {
  const gate = new Gate();
  const ingestion = new Ingestion(pending('a'), gatedWork(gate));
  await new Promise((resolve) => setImmediate(resolve));
  const events: string[] = [];
  ingestion.follow((event) => {
    events.push(event.kind === 'progress' ? `${event.progress.done}` : event.kind);
  });
  expect(events).toEqual(['1']);
  gate.open();
  await ingestion.result;
  expect(events).toEqual(['1', '2', 'ready']);
});

test('usage changed on the way is what gets stored; later it is too late', async () => {
  const gate = new Gate();
  const ingestion = new Ingestion(pending('a'), gatedWork(gate));
  expect(ingestion.changeUsage({ pinned: true }, 0)).toBe(true);
  expect(ingestion.changeUsage({ labels: { a: 'b' } }, 0)).toBe(true);
  expect(ingestion.pending.usage).toMatchObject({ pinned: true, labels: { a: 'b' } });
  gate.open();
  expect((await ingestion.result).stored.usage).toMatchObject({ pinned: true, labels: { a: 'b' } });
  expect(ingestion.changeUsage({ pinned: false }, 0)).toBe(false);
});

test('a cancelled ingestion rejects with the reason, and leaves no failure behind', async () => {
  const ingestions = new Ingestions(10, silent);
  const ingestion = ingestions.start(pending('a'), gatedWork(new Gate()));
  const reason = new ReadonceError('conflict', 'deleted');
  const result = expect(ingestion.result).rejects.toBe(reason);
  expect(await ingestions.cancel('a', reason)).toBe(true);
  await result;
  expect(ingestions.running('a')).toBeUndefined();
  expect(ingestions.failed('a')).toBeUndefined();
  expect(await ingestions.cancel('a', reason)).toBe(false);
});

test('an ingestion cancelled after its last step does not count as ready', async () => {
  const gate = new Gate();
  const reason = new ReadonceError('conflict', 'deleted');
  const work = gatedWork(gate);
  const ingestion: Ingestion = new Ingestion(pending('a'), {
    ...work,
    update: (change) => {
      ingestion.cancel(reason);
      return work.update(change);
    },
  });
  ingestion.changeUsage({ pinned: true }, 0);
  gate.open();
  await expect(ingestion.result).rejects.toBe(reason);
});

test('only so many failures are remembered, the latest; starting again forgets one', async () => {
  const ingestions = new Ingestions(2, silent);
  for (const id of ['a', 'b', 'c']) await ingestions.start(pending(id), failing).settled();
  expect(ingestions.failed('a')).toBeUndefined();
  expect(ingestions.failed('b')?.error.code).toBe('storage_full');
  expect(ingestions.failed('c')?.error.code).toBe('storage_full');
  const again = ingestions.start(pending('c'), gatedWork(new Gate()));
  expect(ingestions.failed('c')).toBeUndefined();
  again.cancel(new ReadonceError('conflict', 'deleted'));
  await again.settled();
});

test('two ingestions of one id at once are a programmer error', async () => {
  const ingestions = new Ingestions(2, silent);
  ingestions.start(pending('a'), gatedWork(new Gate()));
  expect(() => ingestions.start(pending('a'), failing)).toThrow('one ingestion at a time');
  await ingestions.close(new ReadonceError('engine_unavailable', 'closing'));
  expect(ingestions.running('a')).toBeUndefined();
});
