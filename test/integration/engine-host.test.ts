import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { defined } from '../../src/core/assert.ts';
import type { StoredContext } from '../../src/core/context.ts';
import { EngineHost } from '../../src/engine/engine-host.ts';
import type { EngineAnswer } from '../../src/engine/protocol.ts';
import { createLogger } from '../../src/observability/logger.ts';
import { openEnvironment, type Environment, type TableName } from '../../storage/environment.ts';
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

function start(): Promise<EngineHost> {
  const options = {
    model: 'reader-mini',
    cacheFolder: modelCache,
    storeFolder,
    storeMaxBytes: 2 ** 30,
    poolBytes: 2 ** 30,
    logLevel: 'silent',
  } as const;
  return EngineHost.start(options, createLogger({ level: 'silent' }));
}

function ingest(text = document): Promise<StoredContext> {
  return host.ingest({ request: ingestRequest(text), onProgress: () => undefined, signal });
}

function ask(contextId: string, maxTokens = 8): Promise<EngineAnswer> {
  const query = engineQuery(contextId, { query: 'How many trees?', sampling: { maxTokens } });
  return host.answer({ query, onText: () => undefined, signal });
}

/** Flips a bit of the first value in a table of the store. */
function damage(table: TableName): void {
  const [entry] = [...environment.tables[table].getRange({ limit: 1 })];
  const { key, value } = defined(entry, `a value in ${table}`);
  const damaged = Buffer.from(value);
  damaged[damaged.length - 1] = (damaged.at(-1) ?? 0) ^ 1;
  environment.transact(() => environment.tables[table].putSync(key, damaged));
}

describe('a damaged context', () => {
  it('fails its query, and is rebuilt by the next PUT', async () => {
    const { record } = await ingest();
    const expected = await ask(record.id);
    host.unload(record.id);
    damage('segments');
    await expect(ask(record.id)).rejects.toMatchObject({ code: 'corrupt_record' });
    const identified = await host.identify(ingestRequest(document));
    expect(identified).toMatchObject({ id: record.id, stored: undefined });
    await ingest();
    expect((await ask(record.id)).answer).toBe(expected.answer);
    expect((await host.identify(ingestRequest(document))).stored?.record.id).toBe(record.id);
  });

  it.each(['tokens', 'catalogue'] as const)('is found by a PUT in its %s', async (table) => {
    const { record } = await ingest();
    damage(table);
    const identified = await host.identify(ingestRequest(document));
    expect(identified).toMatchObject({ id: record.id, stored: undefined });
    await expect(ingest()).resolves.toMatchObject({ record: { id: record.id } });
    await expect(ask(record.id)).resolves.toMatchObject({
      finishReason: expect.any(String) as string,
    });
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
