import { afterAll, beforeAll, expect, test } from 'vitest';
import { defined } from '../../src/core/assert.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import { sessionSchema } from '../../src/http/schemas/session.ts';
import type { SessionView } from '../../src/service/sessions.ts';
import { readEvents, startTestServer, type TestServer } from '../support/test-server.ts';

let server: TestServer;
let contextId: string;

beforeAll(async () => {
  server = await startTestServer();
  contextId = await putReady('text');
});
afterAll(async () => {
  await server.close();
});

async function putReady(document: string): Promise<string> {
  return ((await (await server.put({ document })).json()) as { id: string }).id;
}

async function open(body: object = {}, id = contextId): Promise<SessionView> {
  const response = await server.post(`/contexts/${id}/sessions`, body);
  expect(response.status).toBe(201);
  return (await response.json()) as SessionView;
}

async function expectProblem(response: Response, code: string): Promise<string> {
  const problem = (await response.json()) as { code: string; detail: string; status: number };
  expect(problem).toMatchObject({ code, status: response.status });
  return problem.detail;
}

/** Whatever is asked of it, the session is not there, in the same words. */
async function expectEnded(id: string): Promise<void> {
  const responses = [
    await server.request(`/sessions/${id}`),
    await server.post(`/sessions/${id}/query`, { query: 'q' }),
    await server.post(`/sessions/${id}/query`, { query: 'q', stream: true }),
    await server.request(`/sessions/${id}`, { method: 'DELETE' }),
  ];
  for (const response of responses) {
    expect(response.status).toBe(404);
    expect(await expectProblem(response, 'not_found')).toMatch(
      /end with their time, their context or the engine/,
    );
  }
}

test('a session is opened with its defaults, without a body too, and can be read', async () => {
  const response = await server.request(`/contexts/${contextId}/sessions`, { method: 'POST' });
  expect(response.status).toBe(201);
  const session = (await response.json()) as SessionView;
  expect(sessionSchema.strict().parse(session)).toEqual(session);
  expect(session).toMatchObject({ contextId, keepRatio: 0.3, turns: 0, tokens: 0 });
  expect(response.headers.get('location')).toBe(`/sessions/${session.id}`);
  const lasts = Date.parse(session.expiresAt) - Date.parse(session.createdAt);
  expect(lasts).toBe(600_000);
  expect(await (await server.request(`/sessions/${session.id}`)).json()).toEqual(session);
});

test('a session has the keepRatio and time that are asked for', async () => {
  const session = await open({ keepRatio: 0.2, ttlSeconds: 86_400 });
  expect(session.keepRatio).toBe(0.2);
  expect(Date.parse(session.expiresAt) - Date.parse(session.createdAt)).toBe(86_400_000);
});

test('a session answers its questions and counts them', async () => {
  const { id } = await open();
  const response = await server.post(`/sessions/${id}/query`, { query: ' abc ', seed: 7 });
  expect(response.status).toBe(200);
  expect(await response.json()).toMatchObject({
    id: expect.stringMatching(/^ans_/) as string,
    object: 'answer',
    answer: 'cba',
    contextId,
    sessionId: id,
  });
  expect(server.engine.queries.at(-1)).toMatchObject({
    source: { kind: 'session', sessionId: id },
    turns: [{ role: 'user', content: 'abc' }],
    sampling: { seed: 7, maxTokens: 128 },
  });
  expect(await (await server.request(`/sessions/${id}`)).json()).toMatchObject({
    turns: 1,
    tokens: 6,
  });
});

test('a session streams', async () => {
  const { id } = await open();
  const body = { query: 'abc', stream: true };
  const events = [];
  for await (const event of readEvents(await server.post(`/sessions/${id}/query`, body))) {
    events.push(event);
  }
  expect(events.map(({ event }) => event)).toEqual(['token', 'token', 'done']);
  expect(events.at(-1)?.data).toMatchObject({ answer: 'cba', contextId, sessionId: id });
});

test("opening and asking note the use of the session's context", async () => {
  const lastUsedAtMs = () => server.store.get(contextId)?.usage.lastUsedAtMs ?? 0;
  server.clock.advance(5000);
  const opened = server.clock.nowMs();
  const { id } = await open();
  expect(lastUsedAtMs()).toBeGreaterThanOrEqual(opened);
  server.clock.advance(5000);
  const asked = server.clock.nowMs();
  await (await server.post(`/sessions/${id}/query`, { query: 'q' })).text();
  expect(lastUsedAtMs()).toBeGreaterThanOrEqual(asked);
});

test('a session that was ended is not found, its context is', async () => {
  const { id } = await open();
  expect((await server.request(`/sessions/${id}`, { method: 'DELETE' })).status).toBe(204);
  await expectEnded(id);
  expect((await server.request(`/contexts/${contextId}`)).status).toBe(200);
});

test.each(['ses_0', 'x', '%FF', '..%2f'])('the unknown session %s is not found', (id) =>
  expectEnded(id),
);

test('a session ends with its context, deleted or expired', async () => {
  const deleted = await putReady('to be deleted');
  const first = await open({}, deleted);
  await server.request(`/contexts/${deleted}`, { method: 'DELETE' });
  await expectEnded(first.id);
  const put = await server.put({ document: 'to expire', ttlSeconds: 60 });
  const second = await open({}, ((await put.json()) as { id: string }).id);
  server.clock.advance(61_000);
  await expectEnded(second.id);
});

test("another tenant's session is not found", async () => {
  const { id } = await open();
  const session = defined(server.engine.sessions.get(id), 'the session');
  server.engine.sessions.set(id, { ...session, tenant: 'other' });
  await expectEnded(id);
  expect(server.engine.sessions.has(id)).toBe(true);
});

test('a session that ends between its look-up and its question is not found', async () => {
  const { id } = await open();
  server.engine.queryFailure = new ReadonceError('not_found', 'Expected a session of the engine.');
  const response = await server.post(`/sessions/${id}/query`, { query: 'q' });
  server.engine.queryFailure = undefined;
  expect(await expectProblem(response, 'not_found')).toMatch(/sessions end/);
});

test('while the engine is down a session is not said to have ended', async () => {
  const { id } = await open();
  server.engine.state = 'unavailable';
  const response = await server.request(`/sessions/${id}`);
  server.engine.state = 'ready';
  expect(response.status).toBe(503);
  await expectProblem(response, 'engine_unavailable');
});

test.each<[string, object, string]>([
  ['keepRatio 0', { keepRatio: 0 }, 'keepRatio'],
  ['a keepRatio above the stored one', { keepRatio: 0.4 }, 'keepRatio'],
  ['ttlSeconds 0', { ttlSeconds: 0 }, 'ttlSeconds'],
  ['ttlSeconds past a day', { ttlSeconds: 86_401 }, 'ttlSeconds'],
  ['a fraction of a second', { ttlSeconds: 1.5 }, 'ttlSeconds'],
  ['an unknown field', { tokens: 1 }, 'tokens'],
])('opening a session refuses %s', async (_, body, path) => {
  const response = await server.post(`/contexts/${contextId}/sessions`, body);
  expect(response.status).toBe(400);
  expect(await response.json()).toMatchObject({ code: 'invalid_argument', errors: [{ path }] });
});

test.each<[string, object, string]>([
  ['no query', {}, 'query'],
  ['a blank query', { query: ' ' }, 'query'],
  ['a keepRatio', { query: 'q', keepRatio: 0.2 }, 'keepRatio'],
  ['messages', { query: 'q', messages: [] }, 'messages'],
  ['maxTokens 0', { query: 'q', maxTokens: 0 }, 'maxTokens'],
])("a session's query refuses %s", async (_, body, path) => {
  const { id } = await open();
  const response = await server.post(`/sessions/${id}/query`, body);
  expect(response.status).toBe(400);
  const { errors } = (await response.json()) as { errors: { path: string }[] };
  expect(errors.map((error) => error.path)).toContain(path);
});

test('a session is opened with a ready context only', async () => {
  const unknown = await server.post(`/contexts/ctx_${'0'.repeat(40)}/sessions`, {});
  await expectProblem(unknown, 'not_found');
});

test('a body that is no JSON is refused, of whatever type', async () => {
  const path = `/contexts/${contextId}/sessions`;
  const text = await server.post(path, {}, { headers: { 'Content-Type': 'text/plain' } });
  expect(text.status).toBe(415);
  const untyped = await server.request(path, { method: 'POST', body: Buffer.from('{}') });
  expect(untyped.status).toBe(415);
  const json = { 'Content-Type': 'application/json' };
  const broken = await server.request(path, { method: 'POST', headers: json, body: '{' });
  expect(broken.status).toBe(400);
});
