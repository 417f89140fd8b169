import { buffer } from 'node:stream/consumers';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createClient } from '../../src/client/client.ts';
import { defined } from '../../src/core/assert.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import { Gate } from '../support/fake-engine.ts';
import { forgeFile, inParts, portableSample } from '../support/portable-samples.ts';
import { essence, replyTo } from '../support/replies.ts';
import { bearer, testApiKeys, testKeys } from '../support/tenants.ts';
import { readEvents, startTestServer, until, type TestServer } from '../support/test-server.ts';
import { startTransferServer } from '../support/transfer-server.ts';

const { acme, acmeSpare, globex } = testKeys;
let server: TestServer;

beforeEach(async () => {
  server = await startTestServer({ apiKeys: testApiKeys });
});
afterEach(() => server.close());

const send = (key: string | undefined, method: string, path: string, value?: object) =>
  replyTo(server, { key, method, path, value });

async function put(key: string, document = 'text'): Promise<string> {
  const { body } = await send(key, 'PUT', '/contexts', { document });
  return String(body['id']);
}

describe('without a key of the server', () => {
  it('nothing but /healthz is answered', async () => {
    const id = await put(acme);
    const routes: readonly (readonly [string, string, object?])[] = [
      ['PUT', '/contexts', { document: 'text' }],
      ['GET', '/contexts'],
      ['GET', `/contexts/${id}`],
      ['PATCH', `/contexts/${id}`, {}],
      ['DELETE', `/contexts/${id}`],
      ['POST', `/contexts/${id}/query`, { query: 'q' }],
      ['GET', `/contexts/${id}/events`],
      ['GET', `/contexts/${id}/importance`],
      ['GET', `/contexts/${id}/export`],
      ['POST', '/contexts/import'],
      ['GET', '/methods'],
      ['GET', '/models'],
      ['GET', '/readyz'],
      ['GET', '/metrics'],
      ['GET', '/openapi.json'],
      ['GET', '/'],
      ['GET', '/no-such-route'],
      ['GET', '/healthz/'],
      ['POST', `/contexts/${id}`],
      ['GET', '/contexts?cursor=%ff'],
      ['OPTIONS', '/contexts'],
    ];
    const replies = await Promise.all(routes.map((route) => send(undefined, ...route)));
    const [first] = replies.map(essence);
    expect(first).toMatchObject({ status: 401, body: { code: 'unauthenticated' } });
    for (const reply of replies) expect(essence(reply)).toEqual(first);
    expect((await send(undefined, 'GET', '/healthz')).status).toBe(200);
    expect((await send(undefined, 'HEAD', '/healthz')).status).toBe(200);
  });

  it('the answer is the same whatever was wrong', async () => {
    const ask = async (authorization: string) => {
      const headers = { Authorization: authorization };
      const response = await server.request('/contexts', { headers });
      const { status } = response;
      const body = (await response.json()) as Record<string, unknown>;
      return essence({ status, headers: response.headers, body });
    };
    const none = essence(await send(undefined, 'GET', '/contexts'));
    expect(none.headers).toContainEqual(['www-authenticate', 'Bearer']);
    for (const wrong of [
      'Bearer',
      'Bearer ',
      'Bearer wrong-key-0123456789',
      `Bearer ${acme}x`,
      `Bearer ${acme.slice(0, -1)}`,
      `Bearer ${acme} ${acme}`,
      `Bearer ${Buffer.from(testApiKeys[0]?.sha256 ?? []).toString('hex')}`,
      `Basic ${Buffer.from(`acme:${acme}`).toString('base64')}`,
      acme,
    ]) {
      expect(await ask(wrong)).toEqual(none);
    }
  });

  it('a body is not even read', async () => {
    const body = 'x'.repeat(2 ** 20);
    const headers = { 'Content-Type': 'text/plain' };
    const response = await server.request('/contexts', { method: 'PUT', headers, body });
    expect(response.status).toBe(401);
    expect(server.engine.identifies).toBe(0);
  });
});

describe('with a key', () => {
  it('the scheme may be written in any case, and every key of a tenant is as good', async () => {
    const id = await put(acme);
    for (const authorization of [`bearer ${acme}`, `BEARER  ${acmeSpare}`]) {
      const headers = { Authorization: authorization };
      expect((await server.request(`/contexts/${id}`, { headers })).status).toBe(200);
    }
  });

  it('no log line has a key', async () => {
    await put(acme);
    await send('wrong-key-0123456789', 'GET', '/contexts');
    const log = server.logLines.join('');
    expect(log).toContain('unauthenticated');
    for (const key of [...Object.values(testKeys), 'wrong-key', 'earer']) {
      expect(log).not.toContain(key);
    }
  });

  it('the engine hears whose a query is', async () => {
    const id = await put(globex);
    await send(globex, 'POST', `/contexts/${id}/query`, { query: 'q' });
    expect(server.engine.queries).toMatchObject([{ tenant: 'globex' }]);
  });
});

/** Everything that can be asked of one context. */
const questions: readonly (readonly [string, string, object?])[] = [
  ['GET', ''],
  ['PATCH', '', { pinned: true }],
  ['POST', '/query', { query: 'q' }],
  ['POST', '/query', { query: 'q', stream: true }],
  ['POST', '/query', { query: 'q', keepRatio: 0.9 }],
  ['GET', '/events'],
  ['HEAD', '/events'],
  ['GET', '/importance'],
  ['GET', '/importance?layer=99&head=0'],
  ['GET', '/export'],
  ['DELETE', ''],
];

/** Expects that a tenant is told of a context what it is told of one that never was. */
async function expectUnknown(key: string, id: string): Promise<void> {
  for (const [method, suffix, value] of questions) {
    const asked = await send(key, method, `/contexts/${id}${suffix}`, value);
    const unknown = `/contexts/ctx_${'0'.repeat(40)}${suffix}`;
    expect(essence(asked)).toEqual(essence(await send(key, method, unknown, value)));
    expect(asked.status).toBe(404);
  }
}

describe("another tenant's context", () => {
  it('is as unknown as one that never was, whatever is asked', async () => {
    const id = await put(acme);
    await expectUnknown(globex, id);
    expect((await send(acme, 'GET', `/contexts/${id}`)).body).toMatchObject({ pinned: false });
    const lists = await Promise.all([globex, acme].map((key) => send(key, 'GET', '/contexts')));
    expect(lists.map(({ body }) => body['data'])).toMatchObject([[], [{ id }]]);
  });

  it('is unknown when its ingestion has failed, and when it has expired', async () => {
    server.engine.ingestFailure = new ReadonceError('storage_full', 'Expected room.');
    const failed = await server.put(
      { document: 'text' },
      { ...bearer(acme), Prefer: 'respond-async' },
    );
    const { id } = (await failed.json()) as { id: string };
    await until(() => server.logLines.some((line) => line.includes('ingestion failed')));
    await expectUnknown(globex, id);
    expect((await send(acme, 'GET', `/contexts/${id}`)).body).toMatchObject({ status: 'failed' });
    server.engine.ingestFailure = undefined;
    expect(await put(acme)).toBe(id);
    await send(acme, 'PATCH', `/contexts/${id}`, { ttlSeconds: 1 });
    server.clock.advance(2000);
    await expectUnknown(globex, id);
    expect((await send(acme, 'GET', `/contexts/${id}`)).status).toBe(410);
  });

  it('is not told of by a damaged record; its owner is told once', async () => {
    const id = await put(acme);
    server.store.corrupt.add(id);
    await expectUnknown(globex, id);
    expect((await send(acme, 'GET', `/contexts/${id}`)).body).toMatchObject({
      code: 'corrupt_record',
    });
    expect((await send(acme, 'GET', `/contexts/${id}`)).status).toBe(404);
  });
});

describe('a document that two tenants put', () => {
  it('becomes a context of each, ingested for each', async () => {
    server.engine.ingestGate = new Gate();
    const putting = [acme, globex, acmeSpare].map((key) =>
      send(key, 'PUT', '/contexts', { document: 'text' }),
    );
    await until(() => server.engine.ingests === 2 && server.engine.identifies === 3);
    server.engine.ingestGate.open();
    const [first, other, joined] = await Promise.all(putting);
    expect(server.engine.ingests).toBe(2);
    expect(other?.body['id']).not.toBe(first?.body['id']);
    expect(joined?.body).toMatchObject({ id: first?.body['id'] });
    expect((await send(globex, 'PUT', '/contexts', { document: 'text' })).status).toBe(200);
    await send(acme, 'DELETE', `/contexts/${String(first?.body['id'])}`);
    const theirs = `/contexts/${String(other?.body['id'])}`;
    expect((await send(globex, 'GET', theirs)).status).toBe(200);
  });

  it('has other ids than without tenants', async () => {
    const open = await startTestServer();
    const { id } = (await (await open.put({ document: 'text' })).json()) as { id: string };
    expect(await put(acme)).not.toBe(id);
    await open.close();
  });
});

describe('a tenant at its bound', () => {
  it('of queries is told to come back, and others are not', async () => {
    await server.close();
    server = await startTestServer({ apiKeys: testApiKeys, service: { maxTenantQueries: 1 } });
    const [id, theirs] = [await put(acme), await put(globex)];
    server.engine.queryGate = new Gate();
    const running = send(acme, 'POST', `/contexts/${id}/query`, { query: 'q' });
    await until(() => server.engine.queries.length === 1);
    const refused = await send(acmeSpare, 'POST', `/contexts/${id}/query`, { query: 'q' });
    expect(refused).toMatchObject({ status: 429, body: { code: 'rate_limited' } });
    expect(refused.headers.get('retry-after')).toBe('2');
    server.engine.queryGate.open();
    const others = await send(globex, 'POST', `/contexts/${theirs}/query`, { query: 'q' });
    expect(others.status).toBe(200);
    expect((await running).status).toBe(200);
    const again = await send(acme, 'POST', `/contexts/${id}/query`, { query: 'q' });
    expect(again.status).toBe(200);
  });

  it('of ingestions is told to come back, but not for what needs none', async () => {
    await server.close();
    server = await startTestServer({ apiKeys: testApiKeys, service: { maxTenantIngests: 1 } });
    await put(acme, 'stored');
    server.engine.ingestGate = new Gate();
    const running = send(acme, 'PUT', '/contexts', { document: 'one' });
    await until(() => server.engine.ingests === 2);
    const refused = await send(acme, 'PUT', '/contexts', { document: 'two' });
    expect(refused).toMatchObject({ status: 429, body: { code: 'rate_limited' } });
    expect(refused.headers.get('retry-after')).toBe('2');
    expect((await send(acme, 'PUT', '/contexts', { document: 'stored' })).status).toBe(200);
    const joined = send(acme, 'PUT', '/contexts', { document: 'one' });
    const others = send(globex, 'PUT', '/contexts', { document: 'two' });
    await until(() => server.engine.ingests === 3 && server.engine.identifies === 6);
    server.engine.ingestGate.open();
    const statuses = (await Promise.all([running, joined, others])).map(({ status }) => status);
    expect(statuses).toEqual([201, 200, 201]);
  });

  it('of all places gets a 503 like everybody, with Retry-After', async () => {
    await server.close();
    server = await startTestServer({ apiKeys: testApiKeys, service: { maxQueuedQueries: 1 } });
    const [id, theirs] = [await put(acme), await put(globex)];
    server.engine.queryGate = new Gate();
    const running = send(acme, 'POST', `/contexts/${id}/query`, { query: 'q' });
    await until(() => server.engine.queries.length === 1);
    const refused = await send(globex, 'POST', `/contexts/${theirs}/query`, { query: 'q' });
    expect(refused).toMatchObject({ status: 503, body: { code: 'overloaded' } });
    expect(refused.headers.get('retry-after')).not.toBeNull();
    server.engine.queryGate.open();
    await running;
  });
});

it('without keys there is one tenant, and no bound but that of all', async () => {
  const open = await startTestServer({ service: { maxTenantQueries: 1, maxQueuedQueries: 2 } });
  const { id } = (await (await open.put({ document: 'text' })).json()) as { id: string };
  const ignored = bearer('no-key-of-anybody-0123');
  expect((await open.request(`/contexts/${id}`, { headers: ignored })).status).toBe(200);
  open.engine.queryGate = new Gate();
  const running = [1, 2].map(() => open.query(id, { query: 'q' }));
  await until(() => open.engine.queries.length === 2);
  expect((await open.query(id, { query: 'q' })).status).toBe(503);
  open.engine.queryGate.open();
  expect((await Promise.all(running)).map(({ status }) => status)).toEqual([200, 200]);
  await open.close();
});

it('events of an ingestion are for its tenant', async () => {
  server.engine.ingestGate = new Gate();
  const accepted = await server.put(
    { document: 'text' },
    { ...bearer(acme), Prefer: 'respond-async' },
  );
  const { id } = (await accepted.json()) as { id: string };
  await expectUnknown(globex, id);
  const following = await server.request(`/contexts/${id}/events`, { headers: bearer(acme) });
  const events = readEvents(following);
  expect((await events.next()).value?.event).toBe('progress');
  expect(server.engine.aborted).toBe(0);
  server.engine.ingestGate.open();
  const rest: string[] = [];
  for await (const { event } of events) rest.push(event);
  expect(rest.at(-1)).toBe('ready');
});

it('a file is imported as the own context of whoever imports it', async () => {
  const sample = portableSample({ seed: 5, kept: [5, 0, 1, 0] });
  const file = forgeFile(sample);
  const { url, store } = await startTransferServer(sample, { apiKeys: testApiKeys });
  const [ours, theirs] = [acme, globex].map((apiKey) => createClient({ baseUrl: url, apiKey }));
  const imported = await ours?.import(inParts(file));
  expect(imported).toMatchObject({ reused: false });
  const id = imported?.id ?? '';
  expect(id).not.toBe(sample.record.id);
  await expect(theirs?.export(id)).rejects.toMatchObject({ code: 'not_found' });
  expect((await theirs?.list())?.data).toEqual([]);
  const exported = await buffer(defined(await ours?.export(id), 'a file'));
  expect(exported.equals(file)).toBe(true);
  const again = await theirs?.import(inParts(exported));
  expect(again).toMatchObject({ reused: false });
  expect(again?.id).not.toBe(id);
  expect((await ours?.import(inParts(file)))?.reused).toBe(true);
  expect([id, again?.id ?? ''].map((stored) => store.get(stored)?.record.tenant)).toEqual([
    'acme',
    'globex',
  ]);
});

it('the OpenAPI document says that a key is needed, and where not', async () => {
  const { body } = await send(acme, 'GET', '/openapi.json');
  expect(body).toMatchObject({
    security: [{ apiKey: [] }],
    components: { securitySchemes: { apiKey: { type: 'http', scheme: 'bearer' } } },
    paths: {
      '/healthz': { get: { security: [] } },
      '/contexts': { put: { responses: { 401: {}, 429: {}, 504: {} } } },
      '/contexts/{id}/query': { post: { responses: { 401: {}, 429: {}, 504: {} } } },
    },
  });
  const parameters = [{ $ref: '#/components/parameters/timeout' }];
  expect(body).toMatchObject({ paths: { '/methods': { get: { parameters } } } });
});
