import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import type { CompressionSpec } from '../../src/core/compression-spec.ts';
import type { StoredContext } from '../../src/core/context.ts';
import { openEnvironment } from '../../storage/environment.ts';
import { idBytes } from '../../storage/keys.ts';
import { TestEngine } from '../support/engine.ts';
import { randomCheckpoint, type RandomCheckpoint } from '../support/random-checkpoint.ts';

const document =
  'The lease of the mill was signed by Ada Finch on 4 May 1911, before two witnesses.';

let random: RandomCheckpoint;
let engine: TestEngine;
/** Where nothing is derived. */
let other: TestEngine;

beforeAll(async () => {
  random = await randomCheckpoint();
});
afterAll(() => random.remove());

/** Two engines with empty stores. */
async function openEngines(): Promise<void> {
  engine = await TestEngine.open({ checkpoint: random.checkpoint });
  other = await TestEngine.open({ checkpoint: random.checkpoint });
}

async function closeEngines(): Promise<void> {
  await engine.close();
  await other.close();
}

function ingest(compression: Partial<CompressionSpec>, into = engine): Promise<StoredContext> {
  return into.ingest(document, { request: { compression } });
}

function derive(compression: Partial<CompressionSpec>): Promise<StoredContext | undefined> {
  return engine.derive(document, { request: { compression } });
}

/** Keys and values of a context's segments, rankings and token ids, as they lie on the disk. */
async function pieces({ folder }: TestEngine, id: string): Promise<readonly string[]> {
  const environment = openEnvironment(folder);
  const ofContext = (key: Buffer): boolean => key.subarray(0, 20).equals(idBytes(id));
  const { segments, rankings, tokens } = environment.tables;
  const found = [segments, rankings, tokens].flatMap((table) =>
    [...table.getRange({ start: Buffer.from([0]) })]
      .filter(({ key }) => ofContext(key))
      .map(({ key, value }) => `${key.toString('hex')} ${value.toString('hex')}`),
  );
  await environment.close();
  return found;
}

describe('a context derived from a stored one', () => {
  const pairsOfSpecs: readonly (readonly [Partial<CompressionSpec>, Partial<CompressionSpec>])[] = [
    [{ keepRatio: 0.3 }, { keepRatio: 0.2 }],
    [
      { keepRatio: 0.3, budget: 'uniform' },
      { keepRatio: 0.05, budget: 'uniform' },
    ],
    [
      { keepRatio: 0.3, precision: 'f32' },
      { keepRatio: 0.3, precision: 'f16' },
    ],
    [
      { keepRatio: 0.5, precision: 'f32' },
      { keepRatio: 0.2, precision: 'int8' },
    ],
    [
      { keepRatio: 0.3, precision: 'f16' },
      { keepRatio: 0.3, precision: 'int8' },
    ],
    [
      { keepRatio: 0.3, precision: 'int8' },
      { keepRatio: 0.001, precision: 'int8' },
    ],
    [
      { method: 'none', keepRatio: 1 },
      { method: 'none', keepRatio: 1, precision: 'int8' },
    ],
  ];

  it.each(pairsOfSpecs)('from %o, is byte for byte one ingested as %o', async (from, to) => {
    await openEngines();
    const source = await ingest(from);
    const passes = [
      vi.spyOn(engine.runtime, 'createDense'),
      vi.spyOn(engine.runtime, 'prefill'),
      vi.spyOn(engine.runtime, 'score'),
      vi.spyOn(engine.runtime, 'forward'),
    ];
    const derived = await derive(to);
    for (const pass of passes) expect(pass).not.toHaveBeenCalled();
    vi.restoreAllMocks();
    const expected = await ingest(to, other);
    expect(derived?.record.id).not.toBe(source.record.id);
    const timeless = ({ record, usage, ...sizes }: StoredContext) => ({
      ...sizes,
      record: { ...record, timings: null, createdAtMs: 0 },
      usage: { ...usage, lastUsedAtMs: 0 },
    });
    expect(derived && timeless(derived)).toEqual(
      // Times are written in as many bytes as they take.
      { ...timeless(expected), diskBytes: expect.any(Number) as number },
    );
    const { id } = expected.record;
    const stored = await pieces(other, id);
    expect(stored.length).toBeGreaterThan(expected.record.pairCounts.length);
    expect(await pieces(engine, id)).toEqual(stored);
    expect((await engine.answer(id)).answer).toBe((await other.answer(id)).answer);
    await closeEngines();
  });
});

describe('a derivation', () => {
  beforeAll(openEngines);
  afterAll(closeEngines);

  it('has what the request says, and takes no time of the model', async () => {
    await ingest({ keepRatio: 0.4 });
    const phases = new Set<string>();
    const usage = { pinned: true, labels: { source: 'test' } };
    const derived = await engine.derive(document, {
      request: {
        compression: { keepRatio: 0.25 },
        createdAtMs: 12_345,
        usage: { ttlMs: null, ...usage },
      },
      onProgress: ({ phase }) => phases.add(phase),
    });
    expect(derived?.usage).toEqual({ ...usage, lastUsedAtMs: 12_345, expiresAtMs: null });
    expect(derived?.record.createdAtMs).toBe(12_345);
    expect(derived?.record.timings).toMatchObject({ prefillMs: 0, scoreMs: 0 });
    expect(derived?.record.timings.totalMs).toBeGreaterThan(0);
    expect([...phases]).toEqual(['persist']);
  });

  it.each([
    ['a larger keepRatio', { keepRatio: 0.41 }],
    ['a finer precision', { keepRatio: 0.2, precision: 'f32' }],
    ['another budget', { keepRatio: 0.2, budget: 'uniform' }],
    ['another method', { keepRatio: 0.2, method: 'random' }],
  ])('cannot give %s', async (_, compression) => {
    await ingest({ keepRatio: 0.4 });
    expect(await derive(compression)).toBeUndefined();
  });

  it.each([
    ['another document', `${document}.`, {}],
    ['other instructions', document, { instructions: 'Be brief.' }],
    ['another tenant', document, { tenant: 'other', tenantSalt: 'salt' }],
    ['another tenant without a salt', document, { tenant: 'other' }],
  ])('cannot give the context of %s', async (_, text, request) => {
    await ingest({ keepRatio: 0.4 });
    const compression = { keepRatio: 0.2 };
    expect(await engine.derive(text, { request: { ...request, compression } })).toBeUndefined();
    expect(await derive(compression)).toBeDefined();
  });

  it('goes on with another stored context if one is damaged', async () => {
    const [small, large] = [await ingest({ keepRatio: 0.5 }), await ingest({ keepRatio: 0.6 })];
    const environment = openEnvironment(engine.folder);
    const { segments } = environment.tables;
    const [entry] = [...segments.getRange({ start: idBytes(small.record.id), limit: 1 })];
    const damaged = Buffer.from(entry?.value ?? []);
    damaged.writeUInt8(damaged.readUInt8(60) ^ 1, 60);
    environment.transact(() => segments.putSync(entry?.key ?? Buffer.alloc(0), damaged));
    await environment.close();
    expect(await derive({ keepRatio: 0.45 })).toBeDefined();
    expect(engine.unusable).toEqual([small.record.id]);
    await engine.store.delete(small.record.id);
    await engine.store.delete(large.record.id);
  });

  it('leaves nothing if what it reads is deleted meanwhile', async () => {
    const source = await ingest({ keepRatio: 0.8 });
    const derived = await engine.derive(document, {
      request: { compression: { keepRatio: 0.7 } },
      onProgress: ({ done }) => {
        if (done === 3) void engine.store.delete(source.record.id);
      },
    });
    expect(derived).toBeUndefined();
    expect(await engine.store.sweep()).toBe(0);
    expect(engine.store.family(source.record.family).map(({ record }) => record.id)).not.toContain(
      source.record.id,
    );
  });

  it('that is cancelled leaves nothing', async () => {
    await ingest({ keepRatio: 0.9 });
    const cancellation = new AbortController();
    const cancelled = engine.derive(document, {
      request: { compression: { keepRatio: 0.85 } },
      onProgress: () => cancellation.abort(new Error('gave up')),
      signal: cancellation.signal,
    });
    await expect(cancelled).rejects.toThrow('gave up');
    const [whole] = [await ingest({ keepRatio: 0.9 })];
    const family = engine.store.family(whole.record.family);
    expect(family.map(({ record }) => record.compression.keepRatio)).not.toContain(0.85);
  });

  it('makes its source the one that was used last', async () => {
    const source = await ingest({ keepRatio: 0.95 });
    await new Promise((resolve) => setTimeout(resolve, 5));
    await derive({ keepRatio: 0.92 });
    const used = engine.store.get(source.record.id)?.usage.lastUsedAtMs;
    expect(used).toBeGreaterThan(source.usage.lastUsedAtMs);
  });
});
