import OpenAI from 'openai';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { startTestServer, type TestServer } from '../support/test-server.ts';

/* A token of the fake engine is a character; a context has 5 tokens of prefix. */

let server: TestServer;
let client: OpenAI;
let contextId: string;
const stored = 'The lease was signed by Ada Lovelace. '.repeat(20).trim();
const unstored = 'The lease was signed by Bram Oduya. '.repeat(20).trim();

beforeAll(async () => {
  server = await startTestServer();
  const baseURL = `${server.http.url}/v1`;
  client = new OpenAI({ baseURL, apiKey: 'none', maxRetries: 0 });
  contextId = ((await (await server.put({ document: stored })).json()) as { id: string }).id;
});
beforeEach(() => {
  server.engine.queries.length = 0;
});
afterAll(async () => {
  await server.close();
});

type Extra = Record<string, unknown>;
type Message = OpenAI.ChatCompletionMessageParam;

const user = (content: string): Message => ({ role: 'user', content });
const assistant = (content: string): Message => ({ role: 'assistant', content });
const system = (content: string): Message => ({ role: 'system', content });

/** What OpenAI's types have no field for goes into the body all the same. */
async function complete(messages: readonly Message[], extra: Extra = {}) {
  const body = { model: 'fake', messages: [...messages], ...extra };
  const answer = await client.chat.completions.create(
    body as OpenAI.ChatCompletionCreateParamsNonStreaming,
  );
  return answer as typeof answer & { readonly context_id?: string };
}

const lastQuery = () => server.engine.queries.at(-1);

test('a document that is stored is answered from, and its use noted', async () => {
  server.clock.advance(5000);
  const nowMs = server.clock.nowMs();
  const answer = await complete([system(stored), user('abc')]);
  expect(answer.context_id).toBe(contextId);
  expect(answer.usage?.prompt_tokens_details?.cached_tokens).toBe(5 + stored.length);
  expect(lastQuery()).toMatchObject({
    source: { kind: 'context', contextId },
    turns: [user('abc')],
  });
  expect(server.store.get(contextId)?.usage.lastUsedAtMs).toBeGreaterThanOrEqual(nowMs);
});

test('a document that is not stored is read for this chat only', async () => {
  const contexts = server.store.contexts.size;
  const answer = await complete([user(unstored), assistant('a'), user('abc')]);
  expect(answer).not.toHaveProperty('context_id');
  expect(answer.usage).toMatchObject({
    prompt_tokens: unstored.length + 4,
    prompt_tokens_details: { cached_tokens: 0 },
  });
  expect(lastQuery()).toMatchObject({
    source: { kind: 'prompt', document: unstored },
    turns: [user(''), assistant('a'), user('abc')],
  });
  expect(server.store.contexts.size).toBe(contexts);
});

test('with store it is put, once, and answered from', async () => {
  const document = `${unstored} It was witnessed by Vega.`;
  const messages = [system('Be brief.'), user(document), user('abc')];
  const first = await complete(messages, { store: true });
  expect(first.context_id).toMatch(/^ctx_/);
  const { ingests } = server.engine;
  const again = await complete(messages, { store: true });
  const later = await complete(messages);
  expect([again.context_id, later.context_id]).toEqual([first.context_id, first.context_id]);
  expect(server.engine.ingests).toBe(ingests);
  const otherInstructions = await complete([system('Be long.'), ...messages.slice(1)]);
  expect(otherInstructions).not.toHaveProperty('context_id');
});

test('a document whose context has expired is not answered from, unless it is put again', async () => {
  const document = `${unstored} It expires.`;
  const put = await server.put({ document, ttlSeconds: 60 });
  const { id } = (await put.json()) as { id: string };
  server.clock.advance(61_000);
  expect(await complete([user(document), user('q')])).not.toHaveProperty('context_id');
  expect((await complete([user(document), user('q')], { store: true })).context_id).toBe(id);
});

test('short messages of which nothing is stored are an ordinary chat', async () => {
  const contexts = server.store.contexts.size;
  const answer = await complete([system('Be brief.'), user('abc')]);
  expect(answer).not.toHaveProperty('context_id');
  expect(answer.usage?.prompt_tokens_details?.cached_tokens).toBe(0);
  expect(lastQuery()).toMatchObject({
    source: { kind: 'prompt', instructions: 'Be brief.' },
    turns: [user('abc')],
  });
  expect(lastQuery()?.source).toHaveProperty('document', undefined);
  expect(server.store.contexts.size).toBe(contexts);
});

test('a short document is looked up, and stored if that is wanted', async () => {
  const document = 'The lease was signed by Ada Lovelace on 3 May 1842.';
  const messages = [system(document), user('abc')];
  expect(await complete(messages)).not.toHaveProperty('context_id');
  const put = await complete(messages, { store: true });
  expect(put.context_id).toMatch(/^ctx_/);
  const found = await complete([user(` ${document}`), user('abc')]);
  expect(found.context_id).toBe(put.context_id);
  expect(found.usage?.prompt_tokens_details?.cached_tokens).toBe(5 + document.length);
  const question = await complete([user(document)], { store: true });
  expect(question).not.toHaveProperty('context_id');
});

test('a question alone is looked up nowhere', async () => {
  const { finds, identifies } = server.engine;
  await complete([user('abc')], { store: true });
  expect([server.engine.finds, server.engine.identifies]).toEqual([finds, identifies]);
});

test('a document is found whatever its compression, the default before those with more', async () => {
  const document = `${unstored} It is kept in several ways.`;
  const putAs = async (compression: Extra): Promise<string> => {
    const response = await server.put({ document, compression });
    return ((await response.json()) as { id: string }).id;
  };
  const found = async (extra: Extra = {}) =>
    (await complete([system(document), user('abc')], extra)).context_id;
  const less = await putAs({ keepRatio: 0.2, precision: 'int8' });
  expect(await found()).toBe(less);
  const all = await putAs({ method: 'none', budget: 'uniform' });
  expect(await found({ store: true })).toBe(all);
  const byDefault = await putAs({});
  expect(await found()).toBe(byDefault);
});
