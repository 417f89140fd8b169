import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { defined } from '../../src/core/assert.ts';
import type { CompressionSpec } from '../../src/core/compression-spec.ts';
import type { StoredContext } from '../../src/core/context.ts';
import { EngineHost } from '../../src/engine/engine-host.ts';
import type { EngineAnswer, EngineOptions, Ingested } from '../../src/engine/protocol.ts';
import { createLogger } from '../../src/observability/logger.ts';
import { openEnvironment, type Environment, type TableName } from '../../storage/environment.ts';
import { idBytes } from '../../storage/keys.ts';
import { engineQuery, ingestRequest } from '../support/engine.ts';
import { modelCache } from '../support/models.ts';

const document = 'The orchard has 312 trees: 200 of them bear apples, the others pears and plums.';
const { signal } = new AbortController();

let storeFolder: string;
let host: EngineHost;
let environment: Environment;

beforeAll(async () => {
  storeFolder = mkdtempSync(join(tmpdir(), 'readonce-host-'));
  host = await start();
  environment = openEnvironment(storeFolder);
});
afterAll(async () => {
  await environment.close();
  await host.close();
  rmSync(storeFolder, { recursive: true });
});

function start(
  different: Partial<EngineOptions> = {},
  logger = createLogger({ level: 'silent' }),
): Promise<EngineHost> {
  const options = {
    model: 'reader-mini',
    cacheFolder: modelCache,
    storeFolder,
    storeMaxBytes: 2 ** 30,
    poolBytes: 2 ** 30,
    maxRunningQueries: 16,
    maxQueryWaitMs: 60_000,
    maxSessions: 8,
    logLevel: 'silent',
    ...different,
  } as const;
  return EngineHost.start(options, logger);
}

function put(text: string, compression: Partial<CompressionSpec> = {}): Promise<Ingested> {
  const request = ingestRequest(text, { compression });
  return host.ingest({ request, onProgress: () => undefined, signal });
}

async function ingest(text = document): Promise<StoredContext> {
  return (await put(text)).stored;
}

function ask(contextId: string, maxTokens = 8): Promise<EngineAnswer> {
  const query = engineQuery(contextId, { query: 'How many trees?', sampling: { maxTokens } });
  return host.answer({ query, onText: () => undefined, signal });
}

/** Flips a bit of a context's last value in a table: what was quarantined before lies first. */
function damage(table: TableName, id: string): void {
  const start = idBytes(id);
  const end = Buffer.concat([start, Buffer.alloc(32, 0xff)]);
  const entry = [...environment.tables[table].getRange({ start, end })].at(-1);
  const { key, value } = defined(entry, `a value in ${table}`);
  const damaged = Buffer.from(value);
  damaged[damaged.length - 1] = (damaged.at(-1) ?? 0) ^ 1;
  environment.transact(() => environment.tables[table].putSync(key, damaged));
}

describe('the device', () => {
  // No machine has so many.
  const deviceIndex = 63;

  it('is the CPU, with one line that says why, where auto finds no CUDA', async () => {
    const lines: string[] = [];
    const stream = { write: (line: string) => void lines.push(line) };
    const auto = await start(
      { device: 'auto', deviceIndex },
      createLogger({ level: 'info', stream }),
    );
    expect(auto.info.device).toBe('cpu');
    await auto.close();
    const chosen = lines.filter((line) => line.includes('device chosen'));
    expect(chosen.map((line) => JSON.parse(line) as unknown)).toEqual([
      expect.objectContaining({
        device: 'cpu',
        reason: expect.stringMatching(/^\w+: ./) as string,
      }),
    ]);
  });

  it('is never another than CUDA where that is wanted', async () => {
    await expect(start({ device: 'cuda', deviceIndex })).rejects.toMatchObject({
      code: 'engine_unavailable',
      message: expect.stringContaining('readonce doctor') as string,
    });
  });
});

it('does not identify a document for who has given up by then', async () => {
  const cancellation = new AbortController();
  // Short ones are done at once.
  const long = `${document} `.repeat(Math.ceil(1024 / document.length));
  const identified = host.identify(ingestRequest(long), cancellation.signal);
  cancellation.abort(new Error('gave up'));
  await expect(identified).rejects.toThrow('gave up');
});

describe('a damaged context', () => {
  it('fails its query, and is rebuilt by the next PUT', async () => {
    const { record } = await ingest();
    const expected = await ask(record.id);
    host.unload(record.id);
    damage('segments', record.id);
    await expect(ask(record.id)).rejects.toMatchObject({ code: 'corrupt_record' });
    await expect(ask(record.id)).rejects.toMatchObject({ code: 'not_found' });
    const identified = await host.identify(ingestRequest(document), signal);
    expect(identified).toMatchObject({ id: record.id, stored: undefined });
    await ingest();
    expect((await ask(record.id)).answer).toBe(expected.answer);
    expect((await host.identify(ingestRequest(document), signal)).stored?.record.id).toBe(
      record.id,
    );
  });

  it.each(['tokens', 'catalogue'] as const)('is found by a PUT in its %s', async (table) => {
    const { record } = await ingest();
    damage(table, record.id);
    const identified = await host.identify(ingestRequest(document), signal);
    expect(identified).toMatchObject({ id: record.id, stored: undefined });
    await expect(ingest()).resolves.toMatchObject({ record: { id: record.id } });
    await expect(ask(record.id)).resolves.toMatchObject({
      finishReason: expect.any(String) as string,
    });
  });
});

describe('a document that is stored with more pairs', () => {
  it('is derived, and answered as the stored context at that keepRatio', async () => {
    const text = `${document} None of the trees is older than 90 years.`;
    const first = await put(text);
    const derived = await put(text, { keepRatio: 0.2 });
    expect([first.derived, derived.derived]).toEqual([false, true]);
    const call = { onText: () => undefined, signal };
    const question = { query: 'How many?', keepRatio: 0.2 };
    const { id } = derived.stored.record;
    const query = engineQuery(first.stored.record.id, question);
    const expected = await host.answer({ ...call, query });
    const answer = await host.answer({ ...call, query: engineQuery(id, question) });
    expect(answer.answer).toBe(expected.answer);
    expect(answer.cache.pairs).toBe(expected.cache.pairs);
    const request = ingestRequest(text, { compression: { keepRatio: 0.2 } });
    expect((await host.identify(request, signal)).stored?.record.id).toBe(id);
  });

  it('is derived though the other one is still being ingested', async () => {
    const text = `${document} The youngest were planted last year.`;
    const both = await Promise.all([put(text), put(text, { keepRatio: 0.2, precision: 'int8' })]);
    expect(both.map(({ derived }) => derived)).toEqual([false, true]);
  });

  it('is ingested if the stored context is damaged', async () => {
    const text = `${document} A third of them were grafted.`;
    const { stored } = await put(text);
    damage('segments', stored.record.id);
    const again = await put(text, { keepRatio: 0.2 });
    expect(again.derived).toBe(false);
    expect((await host.identify(ingestRequest(text), signal)).stored).toBeUndefined();
  });
});

describe('a document that is looked for', () => {
  const text = `${document} Foxes live among them.`;
  const compressions = [
    { keepRatio: 0.2, precision: 'int8' },
    { method: 'none', keepRatio: 1, budget: 'uniform' },
  ];
  const { compression: _, ...request } = ingestRequest(text);
  const find = (change: Partial<typeof request> = {}) =>
    host.find({ ...request, ...change }, signal);
  const found = async () => (await find()).map(({ record }) => record.id);

  it('is found however it was compressed, by its owner', async () => {
    const ids: string[] = [];
    for (const compression of compressions) {
      ids.push((await put(text, compression)).stored.record.id);
    }
    expect((await found()).toSorted()).toEqual(ids.toSorted());
    expect(await find({ tenant: 'another', tenantSalt: 'salt' })).toEqual([]);
    expect(await find({ instructions: 'Be brief.' })).toEqual([]);
    expect(await find({ document: `${text} And owls.` })).toEqual([]);
    const [first = '', second = ''] = ids;
    damage('tokens', first);
    expect(await found()).toEqual([second]);
    await expect(
      host.identify(ingestRequest(text, { compression: compressions[0] ?? {} }), signal),
    ).resolves.toMatchObject({ id: first, stored: undefined });
  });
});

describe('a session of the host', () => {
  const opening = { tenant: 'tenant', ttlMs: 60_000 };
  const turn = (sessionId: string): Promise<EngineAnswer> => {
    const asked = engineQuery('', { query: 'How many trees?' });
    const query = { ...asked, source: { kind: 'session', sessionId } } as const;
    return host.answer({ query, onText: () => undefined, signal });
  };

  it('is opened on a stored context, at no more than its keepRatio', async () => {
    const { id } = (await ingest()).record;
    const open = (contextId: string, keepRatio: number | undefined) => () =>
      host.openSession({ ...opening, contextId, keepRatio });
    expect(open(id, undefined)()).toMatchObject({
      contextId: id,
      keepRatio: 0.3,
      tenant: 'tenant',
    });
    expect(open(id, 0.1)().keepRatio).toBe(0.1);
    expect(open(id, 0.9)).toThrow(expect.objectContaining({ code: 'invalid_argument' }));
    expect(open(`ctx_${'0'.repeat(40)}`, undefined)).toThrow(
      expect.objectContaining({ code: 'not_found' }),
    );
  });

  it('answers until it is closed, and goes with its context', async () => {
    const { id: contextId } = (await ingest()).record;
    const [first, second] = [1, 2].map(() =>
      host.openSession({ ...opening, contextId, keepRatio: undefined }),
    );
    const ids = [first?.id ?? '', second?.id ?? ''] as const;
    const expected = await ask(contextId);
    expect((await turn(ids[0])).answer).toBe(expected.answer);
    expect(host.session(ids[0])).toMatchObject({ turns: 1 });
    host.closeSession(ids[0]);
    await expect(turn(ids[0])).rejects.toMatchObject({ code: 'not_found' });
    await turn(ids[1]);
    host.unload(contextId);
    expect(() => host.session(ids[1])).toThrow(expect.objectContaining({ code: 'not_found' }));
  });

  it('whose context is damaged fails, and the context is quarantined', async () => {
    const { id: contextId } = (await ingest(`${document} It lies on a slope.`)).record;
    const { id } = host.openSession({ ...opening, contextId, keepRatio: undefined });
    damage('segments', contextId);
    await expect(turn(id)).rejects.toMatchObject({ code: 'corrupt_record' });
    await expect(ask(contextId)).rejects.toMatchObject({ code: 'not_found' });
  });
});

describe('an engine host', () => {
  it('closes once its calls have ended, however often', async () => {
    const { record } = await ingest();
    const calls = Promise.allSettled([
      ask(record.id, 500),
      ingest(`${document} `.repeat(9).trim()),
    ]);
    await Promise.all([host.close(), host.close()]);
    const refusal = { reason: { code: 'engine_unavailable' } };
    await expect(calls).resolves.toMatchObject([refusal, refusal]);
    host = await start();
    expect((await ask(record.id)).cache.source).toBe('disk');
  });
});
