import { afterAll, beforeAll, expect, test } from 'vitest';
import { startTestServer, type TestServer } from '../support/test-server.ts';

let server: TestServer;
let id: string;

beforeAll(async () => {
  server = await startTestServer();
  id = ((await (await server.put({ document: 'text' })).json()) as { id: string }).id;
});
afterAll(async () => {
  await server.close();
});

test.each([
  ['GET', '/contexts/ID'],
  ['PATCH', '/contexts/ID', {}],
  ['DELETE', '/contexts/ID'],
  ['GET', '/contexts/ID/events'],
  ['GET', '/contexts/ID/importance'],
  ['GET', '/contexts/ID/export'],
  ['POST', '/contexts/ID/query', { query: 'q' }],
  ['POST', '/contexts/ID/sessions', {}],
  ['POST', '/contexts/import', {}],
  ['GET', '/sessions/ID'],
  ['DELETE', '/sessions/ID'],
  ['POST', '/sessions/ID/query', { query: 'q' }],
  ['GET', '/methods'],
  ['GET', '/models'],
  ['GET', '/openapi.json'],
  ['GET', '/v1/models'],
  ['GET', '/v1/models/fake'],
  ['POST', '/v1/chat/completions', { model: 'fake', messages: [{ role: 'user', content: 'q' }] }],
] as const)('%s %s refuses a parameter that it does not have', async (method, path, body?) => {
  const response = await server.request(`${path.replace('ID', id)}?stream=true`, {
    method,
    ...(body === undefined
      ? {}
      : { headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) }),
  });
  expect(response.status).toBe(400);
  expect(await response.text()).toContain('no field named \\"stream\\"');
});

test.each(['/healthz', '/readyz', '/metrics'])('%s takes any parameter', async (path) => {
  expect((await server.request(`${path}?foo=1`)).status).toBe(200);
});
