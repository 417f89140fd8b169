import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openAiErrorSchema } from '../../src/http/schemas/chat.ts';
import { Gate } from '../support/fake-engine.ts';
import { essence, replyTo, type Asked, type Reply } from '../support/replies.ts';
import { bearer, testApiKeys, testKeys } from '../support/tenants.ts';
import {
  startTestServer,
  until,
  type TestServer,
  type TestServerOptions,
} from '../support/test-server.ts';

/* Sessions and OpenAI's interface, with two tenants. */

const { acme, acmeSpare, globex } = testKeys;
const document = 'The lease was signed by Ada Lovelace. '.repeat(20).trim();
const unknownContext = `ctx_${'0'.repeat(40)}`;
let server: TestServer;

async function start(options: TestServerOptions = {}): Promise<void> {
  server = await startTestServer({ apiKeys: testApiKeys, ...options });
}
async function restart(options: TestServerOptions): Promise<void> {
  await server.close();
  await start(options);
}
beforeEach(() => start());
afterEach(() => server.close());

const ask = (asked: Asked) => replyTo(server, asked);
const post = (key: string | undefined, path: string, value: object, more: Partial<Asked> = {}) =>
  ask({ key, method: 'POST', path, value, ...more });
const chat = (key: string | undefined, extra: object = {}, more: Partial<Asked> = {}) => {
  const messages = [{ role: 'user', content: 'abc' }];
  return post(key, '/v1/chat/completions', { model: 'fake', messages, ...extra }, more);
};

async function put(key: string): Promise<string> {
  const { body } = await ask({ key, method: 'PUT', path: '/contexts', value: { document } });
  return String(body['id']);
}

async function openSession(key: string, contextId: string): Promise<string> {
  const { status, body } = await post(key, `/contexts/${contextId}/sessions`, {});
  expect(status).toBe(201);
  return String(body['id']);
}

/** The error of a reply below /v1, which is a problem, too. */
function openAiErrorOf({ headers, body }: Reply) {
  expect(headers.get('content-type')).toBe('application/problem+json');
  expect(headers.get('x-request-id')).not.toBeNull();
  return openAiErrorSchema.strict().parse(body).error;
}

describe("another tenant's session", () => {
  const questions: readonly (readonly [string, string, object?])[] = [
    ['GET', ''],
    ['POST', '/query', { query: 'q' }],
    ['POST', '/query', { query: 'q', stream: true }],
    ['DELETE', ''],
  ];

  it('is as unknown as one that never was, and goes on for its own', async () => {
    const id = await openSession(acme, await put(acme));
    for (const [method, suffix, value] of questions) {
      const asked = { key: globex, method, value };
      const theirs = await ask({ ...asked, path: `/sessions/${id}${suffix}` });
      const unknown = await ask({ ...asked, path: `/sessions/ses_${'9'.repeat(32)}${suffix}` });
      expect(theirs.status).toBe(404);
      expect(essence(theirs)).toEqual(essence(unknown));
    }
    expect(server.engine.queries).toEqual([]);
    const answer = await post(acmeSpare, `/sessions/${id}/query`, { query: 'abc' });
    expect(answer).toMatchObject({ status: 200, body: { answer: 'cba', sessionId: id } });
    expect(server.engine.queries).toMatchObject([{ tenant: 'acme' }]);
  });

  it('cannot be opened with a context that is not the own', async () => {
    const open = (id: string) => post(globex, `/contexts/${id}/sessions`, {});
    const theirs = await open(await put(acme));
    expect(theirs.status).toBe(404);
    expect(essence(theirs)).toEqual(essence(await open(unknownContext)));
    expect(server.engine.sessions.size).toBe(0);
  });
});

describe('a session of a tenant at its bound of queries', () => {
  it('is told to come back, and those of others are not', async () => {
    await restart({ service: { maxTenantQueries: 1 } });
    const [contextId, others] = [await put(acme), await put(globex)];
    const id = await openSession(acme, contextId);
    const theirs = await openSession(globex, others);
    server.engine.queryGate = new Gate();
    const running = post(acme, `/contexts/${contextId}/query`, { query: 'q' });
    await until(() => server.engine.queries.length === 1);
    const refused = await post(acme, `/sessions/${id}/query`, { query: 'q' });
    expect(refused).toMatchObject({ status: 429, body: { code: 'rate_limited' } });
    expect(refused.headers.get('retry-after')).toBe('2');
    server.engine.queryGate.open();
    expect((await post(globex, `/sessions/${theirs}/query`, { query: 'q' })).status).toBe(200);
    expect((await running).status).toBe(200);
  });
});

it('a session that is not open in time is ended again', async () => {
  const contextId = await put(acme);
  const gate = new Gate();
  const { engine } = server;
  const open = engine.openSession.bind(engine);
  let opened = false;
  engine.openSession = async (request) => {
    await gate.opened;
    opened = true;
    return open(request);
  };
  const headers = { 'X-Request-Timeout-Ms': '300' };
  const late = await post(acme, `/contexts/${contextId}/sessions`, {}, { headers });
  expect(late).toMatchObject({ status: 504, body: { code: 'deadline_exceeded' } });
  gate.open();
  await until(() => opened && engine.sessions.size === 0);
});

describe("a chat of OpenAI's interface", () => {
  it('answers from a stored document to its own tenant only', async () => {
    const id = await put(acme);
    const messages = [
      { role: 'system', content: document },
      { role: 'user', content: 'abc' },
    ];
    expect((await chat(acme, { messages })).body).toMatchObject({ context_id: id });
    const theirs = await chat(globex, { messages });
    expect(theirs.status).toBe(200);
    expect(theirs.body).not.toHaveProperty('context_id');
    expect(theirs.body).toMatchObject({ usage: { prompt_tokens_details: { cached_tokens: 0 } } });
    expect(server.engine.queries).toMatchObject([
      { tenant: 'acme', source: { kind: 'context', contextId: id } },
      { tenant: 'globex', source: { kind: 'prompt', document } },
    ]);
    const stored = await chat(globex, { messages, store: true });
    const own = String(stored.body['context_id']);
    expect(own).not.toBe(id);
    expect(server.store.get(own)?.record.tenant).toBe('globex');
    expect(server.engine.ingests).toBe(2);
  });

  it("is told of another tenant's context what it is told of an unknown one", async () => {
    const id = await put(acme);
    const named = [
      (contextId: string) => chat(globex, { context_id: contextId }),
      (contextId: string) => chat(globex, {}, { headers: { 'X-Context-Id': contextId } }),
      (contextId: string) => chat(globex, { context_id: contextId, stream: true }),
    ];
    for (const name of named) {
      const theirs = await name(id);
      expect(theirs.status).toBe(404);
      expect(openAiErrorOf(theirs)).toMatchObject({ code: 'not_found' });
      expect(essence(theirs)).toEqual(essence(await name(unknownContext)));
    }
    expect((await chat(acme, { context_id: id })).status).toBe(200);
  });
});

describe("below /v1 middleware answers in OpenAI's envelope", () => {
  it('without a key, whatever is asked', async () => {
    const replies = await Promise.all([
      chat(undefined),
      chat('wrong-key-0123456789'),
      ask({ method: 'GET', path: '/v1/models' }),
      ask({ method: 'GET', path: '/v1/models/fake' }),
      ask({ method: 'GET', path: '/v1/no-such-route' }),
      ask({ method: 'DELETE', path: '/v1/chat/completions' }),
    ]);
    for (const reply of replies) {
      expect(reply.status).toBe(401);
      expect(reply.headers.get('www-authenticate')).toBe('Bearer');
      const error = openAiErrorOf(reply);
      expect(error).toMatchObject({ type: 'authentication_error', code: 'unauthenticated' });
    }
    expect(new Set(replies.map((reply) => JSON.stringify(essence(reply)))).size).toBe(1);
  });

  it('for paths and methods that there are not, and bodies that are too large', async () => {
    await restart({ http: { maxBodyBytes: 100 } });
    const path = await ask({ key: acme, method: 'GET', path: '/v1/no-such-route' });
    expect(path.status).toBe(404);
    expect(openAiErrorOf(path)).toMatchObject({ code: 'not_found' });
    const method = await ask({ key: acme, method: 'DELETE', path: '/v1/chat/completions' });
    expect(method.status).toBe(405);
    expect(method.headers.get('allow')).toBe('POST');
    expect(openAiErrorOf(method)).toMatchObject({ code: 'method_not_allowed' });
    const large = await chat(acme, { user: 'x'.repeat(100) });
    expect(large.status).toBe(413);
    expect(openAiErrorOf(large)).toMatchObject({ code: 'payload_too_large' });
  });

  it('at the bound of queries, with Retry-After', async () => {
    await restart({ service: { maxTenantQueries: 1 } });
    server.engine.queryGate = new Gate();
    const running = chat(acme);
    await until(() => server.engine.queries.length === 1);
    const refused = await chat(acmeSpare);
    expect(refused.status).toBe(429);
    expect(refused.headers.get('retry-after')).toBe('2');
    const error = openAiErrorOf(refused);
    expect(error).toMatchObject({ type: 'rate_limit_error', code: 'rate_limited' });
    server.engine.queryGate.open();
    expect((await chat(globex)).status).toBe(200);
    expect((await running).status).toBe(200);
  });

  it('for a deadline that passes or is none, before a stream begins and after', async () => {
    const headers = { 'X-Request-Timeout-Ms': '600' };
    const none = await chat(acme, {}, { headers: { 'X-Request-Timeout-Ms': 'soon' } });
    expect(none.status).toBe(400);
    expect(openAiErrorOf(none)).toMatchObject({ param: 'X-Request-Timeout-Ms' });
    server.engine.queryGate = new Gate();
    for (const stream of [false, true]) {
      const late = await chat(acme, { stream }, { headers });
      expect(late.status).toBe(504);
      const error = openAiErrorOf(late);
      expect(error).toMatchObject({ type: 'server_error', code: 'deadline_exceeded' });
    }
    server.engine.queryGate = undefined;
    server.engine.textGate = new Gate();
    const { status, body } = await chat(acme, { stream: true }, { headers });
    expect(status).toBe(200);
    const [last] = String(body['text']).trim().split('\n\n').slice(-1);
    const data = JSON.parse(last?.replace('data: ', '') ?? '') as object;
    expect(openAiErrorSchema.strict().parse(data).error.code).toBe('deadline_exceeded');
    expect(server.engine.aborted).toBe(3);
  });
});

it('the OpenAPI document says what keys, bounds and deadlines make of these routes', async () => {
  const response = await server.request('/openapi.json', { headers: bearer(acme) });
  const { paths } = (await response.json()) as {
    paths: Record<string, Record<string, { responses: Record<string, { content: object }> }>>;
  };
  const responses = (path: string) => Object.values(paths[path] ?? {}).map((op) => op.responses);
  for (const path of [
    '/contexts/{id}/sessions',
    '/sessions/{id}/query',
    '/v1/chat/completions',
  ] as const) {
    expect(responses(path)).toMatchObject([{ 401: {}, 429: {}, 504: {} }]);
  }
  for (const path of ['/sessions/{id}', '/v1/models', '/v1/models/{id}']) {
    for (const declared of responses(path)) expect(declared).toMatchObject({ 401: {}, 504: {} });
  }
  for (const declared of responses('/v1/chat/completions')) {
    for (const status of [401, 429, 504]) {
      expect(Object.keys(declared[status]?.content ?? {})).toEqual(['application/problem+json']);
    }
  }
});
