import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { startTestServer, type TestServer } from '../support/test-server.ts';

let server: TestServer;
let id: string;

beforeAll(async () => {
  server = await startTestServer();
  id = ((await (await server.put({ document: 'text' })).json()) as { id: string }).id;
});
beforeEach(() => {
  server.engine.queries.length = 0;
});
afterAll(async () => {
  await server.close();
});

const user = (content: unknown) => ({ role: 'user', content });
const assistant = (content: unknown) => ({ role: 'assistant', content });

test('messages are the turns of a query, trimmed', async () => {
  const messages = [user(' abc '), assistant('cba\n'), user('def')];
  const response = await server.query(id, { messages, keepRatio: 0.2 });
  expect(response.status).toBe(200);
  expect(await response.json()).toMatchObject({ answer: 'fed', contextId: id });
  expect(server.engine.queries).toMatchObject([
    {
      source: { kind: 'context', contextId: id, keepRatio: 0.2 },
      turns: [user('abc'), assistant('cba'), user('def')],
    },
  ]);
});

test('256 messages are taken; one user begins and ends them', async () => {
  const turns = Array.from({ length: 255 }, (_, i) => (i % 2 === 0 ? user('q') : assistant('a')));
  expect((await server.query(id, { messages: turns })).status).toBe(200);
  const refused = await server.query(id, { messages: [...turns, assistant('a'), user('q')] });
  expect(refused.status).toBe(400);
  expect(await refused.json()).toMatchObject({ errors: [{ path: 'messages' }] });
});

test.each<[string, object, string]>([
  ['both a query and messages', { query: 'q', messages: [user('q')] }, 'messages'],
  ['no messages', { messages: [] }, 'messages'],
  ['messages that are text', { messages: 'q' }, 'messages'],
  ['a message that is text', { messages: ['q'] }, 'messages.0'],
  ['a message without content', { messages: [{ role: 'user' }] }, 'messages.0.content'],
  ['empty content', { messages: [user('')] }, 'messages.0.content'],
  ['blank content', { messages: [user('q'), assistant(' '), user('q')] }, 'messages.1.content'],
  ['parts for content', { messages: [user([{ type: 'text', text: 'q' }])] }, 'messages.0.content'],
  ['a NUL', { messages: [user('a\0')] }, 'messages.0.content'],
  ['an unknown field', { messages: [{ ...user('q'), name: 'n' }] }, 'messages.0.name'],
  ['an unknown role', { messages: [{ role: 'tool', content: 'q' }] }, 'messages.0.role'],
  ['an assistant first', { messages: [assistant('a'), user('q')] }, 'messages.0.role'],
  ['an assistant last', { messages: [user('q'), assistant('a')] }, 'messages.1.role'],
  ['two users in turn', { messages: [user('q'), user('q')] }, 'messages.1.role'],
  [
    'two assistants in turn',
    { messages: [user('q'), assistant('a'), assistant('a'), user('q')] },
    'messages.2.role',
  ],
])('a query refuses %s', async (_, body, path) => {
  const response = await server.query(id, body);
  expect(response.status).toBe(400);
  const problem = (await response.json()) as { detail: string };
  expect(problem).toMatchObject({ code: 'invalid_argument', errors: [{ path }] });
  expect(problem.detail).toMatch(/^Expected .+ but got /);
  expect(server.engine.queries).toEqual([]);
});

test('a system message is refused, saying that instructions belong to the context', async () => {
  const messages = [{ role: 'system', content: 's' }, user('q')];
  const response = await server.query(id, { messages });
  expect(response.status).toBe(400);
  expect(await response.json()).toMatchObject({
    errors: [{ path: 'messages.0.role' }],
    detail: expect.stringContaining('Instructions belong to the context') as string,
  });
});
