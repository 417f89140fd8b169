import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { ReadonceError } from '../../src/core/errors.ts';
import type { ContextView } from '../../src/service/context-view.ts';
import { Gate } from '../support/fake-engine.ts';
import { startTestServer, until, type TestServer } from '../support/test-server.ts';

let server: TestServer;

beforeEach(async () => {
  server = await startTestServer();
});

afterEach(async () => {
  await server.close();
});

async function body(response: Response): Promise<ContextView> {
  return response.json() as Promise<ContextView>;
}

async function putReady(document: string, more: object = {}): Promise<ContextView> {
  return body(await server.put({ document, ...more }));
}

test('a new document is ingested with the defaults and answered with 201 and its Location', async () => {
  const response = await server.put({ document: '  one two three \n' });
  const context = await body(response);
  expect(response.status).toBe(201);
  expect(response.headers.get('location')).toBe(`/contexts/${context.id}`);
  expect(context).toMatchObject({
    object: 'context',
    status: 'ready',
    reused: false,
    document: { bytes: 13, tokens: 13 },
    compression: {
      method: 'kvzip',
      keepRatio: 0.3,
      budget: 'global',
      precision: 'f16',
      fidelity: null,
    },
    // 6 heads, 5 prefix tokens and 13 of the document, of which 4 are kept; 16 bytes a pair.
    size: {
      pairsTotal: 108,
      pairsKept: 54,
      fullBytes: 1728,
      storedBytes: 864,
      diskBytes: 1376,
      compressionFactor: 2,
    },
    timings: { prefillMs: 1, scoreMs: 2, persistMs: 3, totalMs: 6 },
    expiresAt: null,
    pinned: false,
    labels: {},
  });
  expect(context.lastUsedAt).toBe(context.createdAt);
});

test('the same document again is answered with 200 and reused, trimmed or not', async () => {
  const first = await putReady('text');
  const again = await server.put({ document: '\ufeff text\n' });
  expect(again.status).toBe(200);
  expect(await body(again)).toMatchObject({ id: first.id, reused: true, timings: first.timings });
  expect(server.engine.ingests).toBe(1);
});

test('a context that is derived from a stored one is new, and reused nonetheless', async () => {
  const first = await putReady('text');
  server.engine.derives = true;
  const response = await server.put({ document: 'text', compression: { keepRatio: 0.2 } });
  const derived = await body(response);
  expect(response.status).toBe(201);
  expect(response.headers.get('location')).toBe(`/contexts/${derived.id}`);
  expect(derived.id).not.toBe(first.id);
  expect(derived).toMatchObject({ reused: true, status: 'ready', compression: { keepRatio: 0.2 } });
  expect(server.engine.ingests).toBe(1);
  const metrics = await (await server.request('/metrics')).text();
  expect(metrics).toContain('readonce_ingests_total{outcome="derived"} 1');
  expect(metrics).toContain('readonce_ingested_tokens_total 4');
});

test.each(['text/plain', 'text/markdown; charset=UTF-8'])(
  'a %s body is the document and takes its options from the query string',
  async (type) => {
    const query =
      'method=random&keepRatio=0.5&budget=uniform&precision=f32&ttlSeconds=60&pinned=true&instructions=Be+brief%C3%A9';
    const response = await server.request(`/contexts?${query}`, {
      method: 'PUT',
      headers: { 'Content-Type': type },
      body: '# Títle\n',
    });
    expect(response.status).toBe(201);
    const context = await body(response);
    expect(context).toMatchObject({
      document: { bytes: 8, tokens: 7 },
      compression: { method: 'random', keepRatio: 0.5, budget: 'uniform', precision: 'f32' },
      pinned: true,
    });
    expect(context.expiresAt).not.toBeNull();
    const json = await server.put({
      document: '# Títle',
      instructions: 'Be briefé',
      compression: { method: 'random', keepRatio: 0.5, budget: 'uniform', precision: 'f32' },
    });
    expect((await body(json)).id).toBe(context.id);
  },
);

test('method none keeps everything whatever the default keepRatio', async () => {
  const context = await putReady('abc', { compression: { method: 'none' } });
  expect(context.compression).toMatchObject({ method: 'none', keepRatio: 1 });
  expect(context.size.pairsKept).toBe(context.size.pairsTotal);
});

test('usage given with a second PUT replaces what is stored, and what is left out stays', async () => {
  await putReady('text', { ttlSeconds: 60, pinned: true, labels: { a: '1', b: '2' } });
  const changed = await putReady('text', { labels: { c: '3' } });
  expect(changed).toMatchObject({ pinned: true, labels: { c: '3' } });
  expect(changed.expiresAt).not.toBeNull();
  expect(await putReady('text', { ttlSeconds: null, pinned: false })).toMatchObject({
    expiresAt: null,
    pinned: false,
    labels: { c: '3' },
  });
});

test('identical PUTs at once ingest once: one 201, the others 200 and reused', async () => {
  server.engine.ingestGate = new Gate();
  const puts = [1, 2, 3].map((n) => server.put({ document: 'text', labels: { n: String(n) } }));
  await until(() => server.engine.identifies === 3);
  server.engine.ingestGate.open();
  const responses = await Promise.all(puts);
  const contexts = await Promise.all(responses.map(body));
  const outcomes = contexts.map(({ reused }, i) => `${responses[i]?.status} ${reused}`);
  expect(outcomes.sort()).toEqual(['200 true', '200 true', '201 false']);
  expect(new Set(contexts.map(({ id }) => id)).size).toBe(1);
  expect(server.engine.ingests).toBe(1);
});

test('a client that gives up a PUT does not stop what another waits for', async () => {
  server.engine.ingestGate = new Gate();
  const leaving = new AbortController();
  const first = server.request('/contexts', {
    method: 'PUT',
    headers: { 'Content-Type': 'text/plain' },
    body: 'text',
    signal: leaving.signal,
  });
  await until(() => server.engine.ingests === 1);
  const second = server.put({ document: 'text' });
  await until(() => server.engine.identifies === 2);
  leaving.abort();
  await expect(first).rejects.toThrow();
  server.engine.ingestGate.open();
  expect((await second).status).toBe(200);
  expect(server.engine.ingests).toBe(1);
});

test('Prefer: respond-async answers 202 at once; the context shows how it comes along', async () => {
  server.engine.ingestGate = new Gate();
  const prefer = { Prefer: 'wait=1, Respond-Async' };
  const response = await server.put({ document: 'text', labels: { a: 'b' } }, prefer);
  const context = await body(response);
  expect(response.status).toBe(202);
  expect(response.headers.get('location')).toBe(`/contexts/${context.id}`);
  expect(response.headers.get('preference-applied')).toBe('respond-async');
  expect(context).toMatchObject({
    status: 'ingesting',
    reused: false,
    model: { id: 'fake' },
    document: {
      bytes: 4,
      tokens: 4,
      sha256: '982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1',
    },
    size: { pairsTotal: 0, compressionFactor: 0 },
    labels: { a: 'b' },
  });
  expect((await server.put({ document: 'text' }, prefer)).status).toBe(202);
  const path = `/contexts/${context.id}`;
  expect(await body(await server.request(path))).toMatchObject({ status: 'ingesting' });
  expect((await server.query(context.id, { query: 'q' })).status).toBe(409);
  expect((await server.request(`${path}/importance`)).status).toBe(409);
  server.engine.ingestGate.open();
  await until(() => server.store.contexts.has(context.id));
  expect(await body(await server.request(path))).toMatchObject({ status: 'ready' });
  expect((await server.put({ document: 'text' }, prefer)).status).toBe(200);
});

test('a change made while ingesting holds once the context is ready', async () => {
  server.engine.ingestGate = new Gate();
  const put = server.put({ document: 'text' });
  await until(() => server.engine.ingests === 1);
  const joined = server.put({ document: 'text', pinned: true });
  await until(() => server.engine.identifies === 2);
  server.engine.ingestGate.open();
  await put;
  expect(await body(await joined)).toMatchObject({ pinned: true });
  expect([...server.store.contexts.values()][0]?.usage.pinned).toBe(true);
});

test('a failed ingestion shows as failed until a PUT ingests it again', async () => {
  const outOfMemory = new ReadonceError('out_of_memory', 'Expected more memory.');
  server.engine.ingestFailure = outOfMemory;
  const failed = await server.put({ document: 'text' });
  expect(failed.status).toBe(507);
  server.engine.ingestFailure = undefined;
  server.engine.ingestGate = new Gate();
  const again = server.put({ document: 'text' }, { Prefer: 'respond-async' });
  const { id } = await body(await again);
  server.engine.ingestFailure = outOfMemory;
  server.engine.ingestGate.open();
  await until(() => server.logLines.filter((line) => line.includes('ingestion failed')).length > 1);
  const path = `/contexts/${id}`;
  expect(await body(await server.request(path))).toMatchObject({ status: 'failed' });
  expect((await server.query(id, { query: 'q' })).status).toBe(409);
  server.engine.ingestFailure = undefined;
  expect((await server.put({ document: 'text' })).status).toBe(201);
  expect(await body(await server.request(path))).toMatchObject({ status: 'ready' });
});

test('contexts are listed newest first, in pages, by label', async () => {
  for (const n of [1, 2, 3])
    await putReady(`text ${n}`, { labels: { parity: n % 2 ? 'odd' : 'even' } });
  const list = async (query: string) => {
    const response = await server.request(`/contexts${query}`);
    return (await response.json()) as { data: ContextView[]; nextCursor: string | null };
  };
  const all = await list('');
  expect(all).toMatchObject({ object: 'list', nextCursor: null });
  const ids = all.data.map(({ id }) => id);
  expect(ids).toHaveLength(3);
  expect(ids[0]).toBe((await putReady('text 3')).id);
  const first = await list('?limit=2');
  expect(first.data.map(({ id }) => id)).toEqual(ids.slice(0, 2));
  const rest = await list(`?limit=2&cursor=${first.nextCursor}`);
  expect(rest.data.map(({ id }) => id)).toEqual(ids.slice(2));
  expect(rest.nextCursor).toBeNull();
  expect((await list('?label=parity:even')).data.map(({ id }) => id)).toEqual([ids[1]]);
});

test('PATCH replaces what it gives and leaves the rest', async () => {
  const { id } = await putReady('text', { labels: { a: '1' } });
  const patch = (change: object) =>
    server.request(`/contexts/${id}`, {
      method: 'PATCH',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify(change),
    });
  const response = await patch({ pinned: true, ttlSeconds: 60 });
  expect(response.status).toBe(200);
  const changed = await body(response);
  expect(changed).toMatchObject({ pinned: true, labels: { a: '1' } });
  const ttlMs = Date.parse(changed.expiresAt ?? '') - Date.now();
  expect(ttlMs).toBeGreaterThan(0);
  expect(ttlMs).toBeLessThanOrEqual(60_000);
  expect(await body(await patch({ labels: {} }))).toMatchObject({ pinned: true, labels: {} });
  expect((await patch({ document: 'x' })).status).toBe(400);
  expect((await patch({ ttlSeconds: 0 })).status).toBe(400);
});

test('a deleted context is unloaded and unknown, and can be put again', async () => {
  const { id } = await putReady('text');
  const remove = () => server.request(`/contexts/${id}`, { method: 'DELETE' });
  const response = await remove();
  expect(response.status).toBe(204);
  expect(await response.text()).toBe('');
  expect(server.engine.unloaded).toEqual([id]);
  expect((await server.request(`/contexts/${id}`)).status).toBe(404);
  expect((await server.query(id, { query: 'q' })).status).toBe(404);
  expect((await remove()).status).toBe(404);
  expect((await server.put({ document: 'text' })).status).toBe(201);
});

test('a context begins when it was put, and its time to live when it is ready', async () => {
  server.engine.ingestGate = new Gate();
  const prefer = { Prefer: 'respond-async' };
  const accepted = await body(await server.put({ document: 'text', ttlSeconds: 2 }, prefer));
  const joined = server.put({ document: 'text' });
  await until(() => server.engine.identifies === 2);
  server.clock.advance(60_000);
  server.engine.ingestGate.open();
  const ready = await body(await joined);
  expect(ready).toMatchObject({ status: 'ready', createdAt: accepted.createdAt });
  const ttlMs = Date.parse(ready.expiresAt ?? '') - Date.parse(accepted.createdAt);
  expect(ttlMs).toBeGreaterThanOrEqual(62_000);
  expect((await server.query(accepted.id, { query: 'q' })).status).toBe(200);
});

test('deleting a context that is being ingested stops it; who waits gets a conflict', async () => {
  server.engine.ingestGate = new Gate();
  const put = server.put({ document: 'text' });
  await until(() => server.engine.ingests === 1);
  const { id } = await body(await server.put({ document: 'text' }, { Prefer: 'respond-async' }));
  expect((await server.request(`/contexts/${id}`, { method: 'DELETE' })).status).toBe(204);
  expect(server.engine.aborted).toBe(1);
  expect((await put).status).toBe(409);
  expect((await server.request(`/contexts/${id}`)).status).toBe(404);
  expect(server.store.contexts.size).toBe(0);
});

test('an expired context is gone, is not listed, and a PUT revives it without ingesting', async () => {
  const { id } = await putReady('text', { ttlSeconds: 60 });
  server.clock.advance(61_000);
  const expired = await server.request(`/contexts/${id}`);
  expect(expired.status).toBe(410);
  expect(await expired.json()).toMatchObject({ code: 'gone' });
  expect((await server.query(id, { query: 'q' })).status).toBe(410);
  expect(await (await server.request('/contexts')).json()).toMatchObject({ data: [] });
  const revived = await server.put({ document: 'text' });
  expect(revived.status).toBe(200);
  expect(await body(revived)).toMatchObject({ reused: true, expiresAt: null });
  expect(server.engine.ingests).toBe(1);
  expect((await server.request(`/contexts/${id}`)).status).toBe(200);
});

test('importance has the kept counts of every head, and one head ranked', async () => {
  const { id } = await putReady('0123456789');
  const read = async (query: string) => server.request(`/contexts/${id}/importance${query}`);
  expect(await (await read('')).json()).toEqual({
    object: 'importance',
    contextId: id,
    documentTokens: 10,
    prefixTokens: 5,
    layers: 2,
    kvHeads: 3,
    keptCounts: [
      [3, 3, 3],
      [3, 3, 3],
    ],
    head: null,
  });
  const ranked = (await (await read('?layer=1&head=2')).json()) as { head: unknown };
  // The fake's scores: head 5 of all, best 3 of 4 quarters.
  expect(ranked.head).toEqual({
    layer: 1,
    head: 2,
    positions: [2, 1, 0],
    scores: [5.75, 5.5, 5.25],
  });
  expect((await read('?layer=2&head=0')).status).toBe(400);
  expect((await read('?layer=1')).status).toBe(400);
  expect((await read('?layer=-1&head=0')).status).toBe(400);
});

test('a ranking that fails its check moves the context aside, and a PUT rebuilds it', async () => {
  const { id } = await putReady('0123456789');
  vi.spyOn(server.store, 'readRanking').mockImplementationOnce(() => {
    throw new ReadonceError('corrupt_record', 'Checksum differs.');
  });
  const read = () => server.request(`/contexts/${id}/importance?layer=1&head=2`);
  const failed = await read();
  expect(failed.status).toBe(500);
  expect(await failed.json()).toMatchObject({ code: 'corrupt_record' });
  expect((await read()).status).toBe(404);
  expect(server.engine.unloaded).toContain(id);
  expect((await server.put({ document: '0123456789' })).status).toBe(201);
  expect((await read()).status).toBe(200);
});

test('stored contexts are served while the engine is down', async () => {
  const { id } = await putReady('text');
  server.engine.state = 'unavailable';
  expect((await server.request(`/contexts/${id}`)).status).toBe(200);
  expect((await server.request('/contexts')).status).toBe(200);
  for (const response of [
    await server.put({ document: 'text' }),
    await server.query(id, { query: 'q' }),
    await server.request('/readyz'),
  ]) {
    expect(response.status).toBe(503);
    expect(Number(response.headers.get('retry-after'))).toBeGreaterThan(0);
    expect(await response.json()).toMatchObject({ code: 'engine_unavailable' });
  }
  expect((await server.request(`/contexts/${id}`, { method: 'DELETE' })).status).toBe(204);
});
