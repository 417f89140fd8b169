import { once } from 'node:events';
import { connect } from 'node:net';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { defined } from '../../src/core/assert.ts';
import { precisions } from '../../src/compression/registry.ts';
import { Gate } from '../support/fake-engine.ts';
import { readEvents, startTestServer, until, type TestServer } from '../support/test-server.ts';

let server: TestServer;

beforeEach(async () => {
  server = await startTestServer({
    service: { maxQueuedIngests: 1, maxQueuedQueries: 1 },
    shutdownMs: 10_000,
  });
});

afterEach(async () => {
  await server.close();
});

async function putReady(document = 'text'): Promise<string> {
  return ((await (await server.put({ document })).json()) as { id: string }).id;
}

async function json(path: string): Promise<unknown> {
  const response = await server.request(path);
  expect(response.status).toBe(200);
  return response.json();
}

test('the process is up, and ready while its engine is', async () => {
  expect(await json('/healthz')).toEqual({ status: 'ok' });
  expect(await json('/readyz')).toEqual({ status: 'ready' });
  server.engine.state = 'starting';
  expect(await json('/healthz')).toEqual({ status: 'ok' });
  const response = await server.request('/readyz');
  expect(response.status).toBe(503);
  expect(await response.json()).toMatchObject({ code: 'engine_unavailable' });
});

test('methods are those that are built, one of them the default', async () => {
  const { data } = (await json('/methods')) as { data: { id: string; default: boolean }[] };
  expect(data.map(({ id }) => id)).toEqual(
    expect.arrayContaining(['kvzip', 'none', 'random', 'streaming-llm', 'key-norm']),
  );
  expect(data.filter((method) => method.default).map(({ id }) => id)).toEqual(['kvzip']);
});

test('the model is what the engine says of itself, none before it has started', async () => {
  expect(await json('/models')).toEqual({
    object: 'list',
    data: [
      {
        id: 'fake',
        object: 'model',
        description: 'Answers with the question turned round.',
        fingerprint: 'sha256:fake',
        contextLength: 1000,
        device: 'cpu',
        default: true,
      },
    ],
  });
  server.engine.info = undefined;
  expect(await json('/models')).toEqual({ object: 'list', data: [] });
});

test('the OpenAPI document has every route, its schemas and its problems', async () => {
  const document = (await json('/openapi.json')) as {
    openapi: string;
    paths: Record<string, Record<string, { requestBody?: object; responses: object }>>;
    components: { schemas: object };
  };
  expect(document.openapi).toBe('3.1.0');
  const routes = Object.entries(document.paths).flatMap(([path, operations]) =>
    Object.keys(operations).map((method) => `${method} ${path}`),
  );
  expect(routes.sort()).toEqual([
    'delete /contexts/{id}',
    'delete /sessions/{id}',
    'get /contexts',
    'get /contexts/{id}',
    'get /contexts/{id}/events',
    'get /contexts/{id}/export',
    'get /contexts/{id}/importance',
    'get /healthz',
    'get /methods',
    'get /metrics',
    'get /models',
    'get /readyz',
    'get /sessions/{id}',
    'get /v1/models',
    'get /v1/models/{id}',
    'patch /contexts/{id}',
    'post /contexts/import',
    'post /contexts/{id}/query',
    'post /contexts/{id}/sessions',
    'post /sessions/{id}/query',
    'post /v1/chat/completions',
    'put /contexts',
  ]);
  const put = document.paths['/contexts']?.['put'];
  expect(put?.requestBody).toMatchObject({
    required: true,
    content: {
      'application/json': { schema: { $ref: '#/components/schemas/PutContext' } },
      'text/plain': {},
      'text/markdown': {},
    },
  });
  expect(Object.keys(put?.responses ?? {})).toEqual(
    expect.arrayContaining(['200', '201', '202', '400', '413', '415', '422', '503', '507']),
  );
  expect(put).toMatchObject({
    parameters: expect.arrayContaining([
      expect.objectContaining({ name: 'prefer', in: 'header' }),
    ]) as unknown,
    responses: {
      401: { headers: { 'WWW-Authenticate': {} } },
      429: { headers: { 'Retry-After': {} } },
      503: { headers: { 'Retry-After': {} } },
    },
  });
  const schemas = JSON.stringify(document.components.schemas);
  for (const precision of precisions.keys()) expect(schemas).toContain(`\\"${precision}\\"`);
  expect(document.paths['/contexts/{id}/query']?.['post']?.responses).toMatchObject({
    409: { description: expect.stringContaining('identity_mismatch') as string },
  });
  expect(Object.keys(document.components.schemas)).toEqual(
    expect.arrayContaining(['Answer', 'Context', 'ContextList', 'Problem', 'PutContext', 'Query']),
  );
});

test('metrics count requests by route pattern, never by path', async () => {
  const id = await putReady();
  await (await server.query(id, { query: 'abc' })).text();
  await (await server.request(`/contexts/${id}`)).text();
  await (await server.request('/made/up')).text();
  const response = await server.request('/metrics');
  expect(response.headers.get('content-type')).toContain('version=0.0.4');
  const text = await response.text();
  expect(text).toContain(
    'readonce_http_requests_total{method="GET",route="/contexts/:id",status="200"} 1',
  );
  expect(text).toContain(
    'readonce_http_requests_total{method="GET",route="unmatched",status="404"} 1',
  );
  expect(text).toContain('readonce_ingests_total{outcome="ingested"} 1');
  expect(text).toContain('readonce_queries_total{outcome="stop"} 1');
  expect(text).toContain('readonce_prefilled_tokens_total 3');
  expect(text).toContain('readonce_errors_total{code="not_found"} 1');
  expect(text).not.toContain(id);
});

test("metrics have the memory of the model's GPU, if it has one", async () => {
  const samples = async () => {
    const text = await (await server.request('/metrics')).text();
    return text.split('\n').filter((line) => line.startsWith('readonce_device_memory_bytes'));
  };
  const { engine } = server;
  engine.memory = { freeBytes: 5e9, totalBytes: 80e9 };
  expect(await samples()).toEqual([]);
  engine.info = { ...defined(engine.info, 'what it says'), device: 'cuda:0 NVIDIA H100' };
  const expected = [
    'readonce_device_memory_bytes{state="used"} 75000000000',
    'readonce_device_memory_bytes{state="total"} 80000000000',
  ];
  expect(await samples()).toEqual(expected);
  engine.memory = new Error('busy');
  expect(await samples()).toEqual(expected);
  engine.state = 'unavailable';
  expect(await samples()).toEqual([]);
});

test('every request has one log line without its query string', async () => {
  await (await server.request('/contexts?label=secret:word')).text();
  await until(() => server.logLines.length > 0);
  const lines = server.logLines.map((line) => JSON.parse(line) as Record<string, unknown>);
  expect(lines).toHaveLength(1);
  expect(lines[0]).toMatchObject({ msg: 'request', method: 'GET', path: '/contexts', status: 200 });
  expect(server.logLines.join('')).not.toContain('secret');
});

test('ingestions and queries past the bound are refused as overloaded', async () => {
  const id = await putReady();
  server.engine.ingestGate = new Gate();
  server.engine.queryGate = new Gate();
  const put = server.put({ document: 'one' });
  const query = server.query(id, { query: 'q' });
  await until(() => server.engine.ingests === 2 && server.engine.queries.length === 1);
  for (const refused of [
    await server.put({ document: 'two' }),
    await server.query(id, { query: 'q' }),
  ]) {
    expect(refused.status).toBe(503);
    expect(refused.headers.get('retry-after')).toBe('2');
    expect(await refused.json()).toMatchObject({ code: 'overloaded' });
  }
  server.engine.ingestGate.open();
  server.engine.queryGate.open();
  expect((await put).status).toBe(201);
  expect((await query).status).toBe(200);
  expect((await server.put({ document: 'two' })).status).toBe(201);
});

test('closing finishes running answers and accepts no more', async () => {
  const id = await putReady();
  server.engine.textGate = new Gate();
  const running = await server.query(id, { query: 'abc', stream: true });
  const events = readEvents(running);
  await events.next();
  const closed = server.http.close();
  await expect(server.request('/healthz', { headers: { Connection: 'close' } })).rejects.toThrow();
  server.engine.textGate.open();
  const rest: string[] = [];
  for await (const { event } of events) rest.push(event);
  expect(rest).toEqual(['token', 'done']);
  await closed;
  expect(server.engine.aborted).toBe(0);
});

test('closing does not wait for a connection that never sent a request', async () => {
  // The deadline is past the test's own time limit: it cannot be what ends the wait.
  const patient = await startTestServer({ shutdownMs: 3_600_000 });
  const socket = connect(patient.http.port, '127.0.0.1');
  await once(socket, 'connect');
  const ended = once(socket, 'end');
  socket.resume();
  await (await patient.request('/healthz')).text();
  await patient.http.close();
  await ended;
});

test('closing cuts off answers that do not finish in time', async () => {
  const impatient = await startTestServer({ shutdownMs: 50 });
  const put = await impatient.put({ document: 'text' });
  const { id } = (await put.json()) as { id: string };
  impatient.engine.queryGate = new Gate();
  const running = impatient.query(id, { query: 'q' });
  await until(() => impatient.engine.queries.length === 1);
  const cutOff = expect(running).rejects.toThrow();
  await impatient.http.close();
  await cutOff;
  await until(() => impatient.engine.aborted === 1);
});

test('closing the service stops ingestions, and whoever waits is told to come back', async () => {
  server.engine.ingestGate = new Gate();
  const put = server.put({ document: 'text' });
  await until(() => server.engine.ingests === 1);
  await server.service.close();
  const response = await put;
  expect(response.status).toBe(503);
  expect(response.headers.get('retry-after')).toBe('5');
  expect(server.engine.aborted).toBe(1);
});

test('a port that is taken is an error', async () => {
  const { listen } = await import('../../src/http/server.ts');
  const app = { fetch: () => new Response() };
  const taken = listen({ app, host: '127.0.0.1', port: server.http.port });
  await expect(taken).rejects.toThrow('EADDRINUSE');
});
