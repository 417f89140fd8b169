import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { defined } from '../../src/core/assert.ts';
import { startEngine, type SupervisedEngine } from '../../src/engine/client.ts';
import type { EngineOptions, IngestProgress } from '../../src/engine/protocol.ts';
import { createLogger } from '../../src/observability/logger.ts';
import { engineQuery, ingestRequest } from '../support/engine.ts';
import { modelCache } from '../support/models.ts';

const document =
  'The Marlow Observatory stands on a ridge above the village of Denby. Construction began in 1908 ' +
  'and took nearly three years; the building finally opened to the public on 4 May 1911.';
const question = 'When did the observatory open to the public?';

const folder = mkdtempSync(join(tmpdir(), 'readonce-process-'));
const started: SupervisedEngine[] = [];

function start(options: Partial<EngineOptions> = {}): SupervisedEngine {
  const engine = startEngine({
    model: 'reader-mini',
    cacheFolder: modelCache,
    storeFolder: join(folder, 'store'),
    storeMaxBytes: 2 ** 30,
    // What the runtime chooses.
    poolBytes: 0,
    maxRunningQueries: 16,
    maxQueryWaitMs: 60_000,
    maxSessions: 4,
    logLevel: 'fatal',
    ...options,
    logger: createLogger({ level: 'silent' }),
  });
  started.push(engine);
  return engine;
}

afterEach(async () => {
  for (const engine of started.filter((each) => each !== shared)) await engine.close();
});
afterAll(async () => {
  await Promise.all(started.map((engine) => engine.close()));
  rmSync(folder, { recursive: true });
});

/** Whether a process of this id runs. */
function runs(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

/** Resolves once the engine that `pid` was is replaced and ready. */
async function replaced(engine: SupervisedEngine, pid: number): Promise<void> {
  while (engine.state !== 'ready' || engine.pid === pid) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Long enough to be interrupted: the model goes on repeating the document. */
const longQuery = { query: 'Repeat the previous context exactly.', sampling: { maxTokens: 2000 } };

let shared: SupervisedEngine;
beforeAll(async () => {
  shared = start();
  await shared.ready;
});

describe('an engine process', () => {
  it('says what it runs', async () => {
    expect(shared.state).toBe('ready');
    expect(shared.info).toMatchObject({
      modelId: 'reader-mini',
      contextLength: 8192,
      device: 'cpu',
      fingerprint: expect.stringMatching(/^sha256:[0-9a-f]{64}$/) as string,
    });
    await expect(shared.ready).resolves.toEqual(shared.info);
  });

  it('identifies, ingests and answers over its channel', async () => {
    const request = ingestRequest(document);
    const unknown = await shared.identify(request);
    expect(unknown.stored).toBeUndefined();
    const progress: IngestProgress[] = [];
    const { stored } = await shared.ingest(request, (event) => progress.push(event));
    expect(stored.record.id).toBe(unknown.id);
    expect(new Set(progress.map(({ phase }) => phase))).toEqual(
      new Set(['prefill', 'score', 'persist']),
    );
    expect((await shared.identify(request)).stored).toEqual(stored);
    const pieces: string[] = [];
    const query = engineQuery(stored.record.id, { query: question, sampling: { maxTokens: 24 } });
    const answer = await shared.query(query, (text) => pieces.push(text));
    expect(answer.answer).toMatch(/4 May 1911/);
    expect(pieces.join('')).toBe(answer.answer);
  });

  it('passes errors on with their code, message and details', async () => {
    const { record } = (await shared.ingest(ingestRequest(document), () => undefined)).stored;
    const query = engineQuery(record.id, { keepRatio: 0.9 });
    await expect(shared.query(query, () => undefined)).rejects.toMatchObject({
      code: 'invalid_argument',
      message: expect.stringContaining('at most 0.3') as string,
      details: { keepRatio: 0.9, storedKeepRatio: 0.3 },
    });
  });

  it('ends an aborted query with what was answered', async () => {
    const { record } = (await shared.ingest(ingestRequest(document), () => undefined)).stored;
    const cancellation = new AbortController();
    const answer = await shared.query(
      engineQuery(record.id, longQuery),
      () => cancellation.abort(),
      cancellation.signal,
    );
    expect(answer.finishReason).toBe('cancelled');
    expect(answer.answer.length).toBeGreaterThan(0);
  });

  it('ends an aborted ingestion, and an aborted one that waits for it', async () => {
    const text = `${document} It is closed on Mondays.`;
    const cancellation = new AbortController();
    const ended = await Promise.allSettled(
      [text, `${text} Always.`].map((each) =>
        shared.ingest(ingestRequest(each), () => cancellation.abort(), cancellation.signal),
      ),
    );
    for (const result of ended) {
      expect(result).toMatchObject({
        status: 'rejected',
        reason: { message: expect.stringContaining('abort') as string },
      });
    }
    expect((await shared.identify(ingestRequest(text))).stored).toBeUndefined();
    const late = shared.identify(ingestRequest(text), cancellation.signal);
    await expect(late).rejects.toThrow(/abort/);
  });

  it('forgets a context when told to', async () => {
    const { record } = (await shared.ingest(ingestRequest(document), () => undefined)).stored;
    const source = async (): Promise<string> =>
      (await shared.query(engineQuery(record.id), () => undefined)).cache.source;
    await source();
    await expect(source()).resolves.toBe('host');
    await shared.unload(record.id);
    await expect(source()).resolves.toBe('disk');
  });
});

describe('an engine that dies', () => {
  it('refuses what it was asked, comes back, and answers from what it had stored', async () => {
    const pid = defined(shared.pid, 'a process');
    const { record } = (await shared.ingest(ingestRequest(document), () => undefined)).stored;
    const query = engineQuery(record.id, { query: question, sampling: { maxTokens: 24 } });
    const before = await shared.query(query, () => undefined);
    // Too long to be done before the first token of an answer.
    const text = `${document} Nobody was hurt. `.repeat(30).trim();
    const refusal = { code: 'engine_unavailable', retryAfterSeconds: expect.any(Number) as number };
    const kill = (): void => {
      process.kill(pid, 'SIGKILL');
    };
    const pending = await Promise.allSettled([
      shared.query(engineQuery(record.id, longQuery), kill),
      shared.query(engineQuery(record.id, longQuery), () => undefined),
      shared.ingest(ingestRequest(text), () => undefined),
    ]);
    expect(pending).toMatchObject([{ reason: refusal }, { reason: refusal }, { reason: refusal }]);
    expect(shared.state).not.toBe('ready');
    await expect(shared.query(query, () => undefined)).rejects.toMatchObject(refusal);
    await replaced(shared, pid);
    const after = await shared.query(query, () => undefined);
    expect(after.answer).toBe(before.answer);
    expect(after.cache.source).toBe('disk');
    await expect(shared.ready).resolves.toEqual(shared.info);
  });

  it('does not end for the signals that its server gets', async () => {
    const pid = defined(shared.pid, 'a process');
    process.kill(pid, 'SIGINT');
    process.kill(pid, 'SIGTERM');
    await shared.identify(ingestRequest(document));
    expect(shared.pid).toBe(pid);
  });
});

describe('an engine that cannot start', () => {
  it.each([
    ['a model that is not there', { model: '/nowhere/model.gguf' }, 'invalid_argument'],
    ['a folder without a model', { model: folder }, 'invalid_argument'],
  ])('says why: %s', async (_, options, code) => {
    const engine = start({ storeFolder: join(folder, 'other'), ...options });
    const pid = defined(engine.pid, 'a process');
    const early = engine.identify(ingestRequest(document));
    await expect(early).rejects.toMatchObject({ code: 'engine_unavailable' });
    await expect(engine.ready).rejects.toMatchObject({
      code,
      message: expect.stringContaining(options.model) as string,
    });
    await engine.close();
    expect(runs(pid)).toBe(false);
    expect(engine.pid).toBeUndefined();
  });
});

describe('closing', () => {
  it('leaves no process, however often', async () => {
    const engine = start({ storeFolder: join(folder, 'closed') });
    await engine.ready;
    const pid = defined(engine.pid, 'a process');
    const { record } = (await engine.ingest(ingestRequest(document), () => undefined)).stored;
    const [running] = await Promise.allSettled([
      engine.query(engineQuery(record.id, longQuery), () => undefined),
      engine.close(),
      engine.close(),
    ]);
    await engine.close();
    expect(runs(pid)).toBe(false);
    expect(engine.state).toBe('unavailable');
    expect(running).toMatchObject({ reason: { code: 'engine_unavailable' } });
    await expect(engine.identify(ingestRequest(document))).rejects.toMatchObject({
      code: 'engine_unavailable',
    });
  });

  it('while it starts ends the wait for it', async () => {
    const engine = start({ storeFolder: join(folder, 'closed') });
    const pid = defined(engine.pid, 'a process');
    await engine.close();
    await expect(engine.ready).rejects.toMatchObject({ code: 'engine_unavailable' });
    expect(runs(pid)).toBe(false);
  });
});
