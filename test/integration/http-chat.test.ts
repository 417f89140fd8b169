import OpenAI from 'openai';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { ReadonceError } from '../../src/core/errors.ts';
import { chunkSchema, completionSchema, openAiErrorSchema } from '../../src/http/schemas/chat.ts';
import { seedEnd } from '../../src/service/queries.ts';
import { Gate } from '../support/fake-engine.ts';
import { startTestServer, until, type TestServer } from '../support/test-server.ts';

/* A token of the fake engine is a character; a context has 5 tokens of prefix. */

let server: TestServer;
let client: OpenAI;
let contextId: string;
const stored = 'The lease was signed by Ada Lovelace. '.repeat(20).trim();

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
  expect(completionSchema.strict().parse(answer)).toEqual(answer);
  return answer as typeof answer & { readonly context_id?: string };
}

function post(body: Extra, headers: Record<string, string> = {}): Promise<Response> {
  const all = { model: 'fake', messages: [user('abc')], ...body };
  return server.post('/v1/chat/completions', all, {
    headers: { 'Content-Type': 'application/json', ...headers },
  });
}

async function openAiError(response: Response) {
  expect(response.headers.get('content-type')).toBe('application/problem+json');
  const { error, ...problem } = openAiErrorSchema.strict().parse(await response.json());
  expect(problem).toMatchObject({
    status: response.status,
    detail: error.message,
    instance: new URL(response.url).pathname,
    requestId: response.headers.get('x-request-id'),
  });
  return error;
}

const lastQuery = () => server.engine.queries.at(-1);

test('the models are listed, and one can be read', async () => {
  const models = await client.models.list();
  expect(models.data).toEqual([{ id: 'fake', object: 'model', created: 0, owned_by: 'readonce' }]);
  expect(await client.models.retrieve('fake')).toEqual(models.data[0]);
  const unknown = client.models.retrieve('owner/other');
  await expect(unknown).rejects.toMatchObject({ status: 404, code: 'model_not_found' });
});

test('a chat with a context is turns of it, and counts its tokens as cached', async () => {
  const answer = await complete([user(' abc '), assistant('cba'), user('def')], {
    context_id: contextId,
  });
  expect(answer).toMatchObject({
    id: expect.stringMatching(/^chatcmpl-[0-9a-f]{32}$/) as string,
    model: 'fake',
    choices: [{ message: { role: 'assistant', content: 'fed' }, finish_reason: 'stop' }],
    context_id: contextId,
  });
  const cached = 5 + stored.length;
  expect(answer.usage).toEqual({
    prompt_tokens: cached + 9,
    completion_tokens: 3,
    total_tokens: cached + 12,
    prompt_tokens_details: { cached_tokens: cached },
  });
  expect(lastQuery()).toMatchObject({
    source: { kind: 'context', contextId },
    turns: [user('abc'), assistant('cba'), user('def')],
    sampling: { temperature: 0, maxTokens: 128 },
  });
});

test('a header names the context too, if it is the same', async () => {
  const answer = await post({}, { 'X-Context-Id': contextId });
  expect(await answer.json()).toMatchObject({ context_id: contextId });
  const same = await post({ context_id: contextId }, { 'X-Context-Id': contextId });
  expect(same.status).toBe(200);
  const other = await post({ context_id: 'ctx_1' }, { 'X-Context-Id': contextId });
  expect(other.status).toBe(400);
  expect(await openAiError(other)).toMatchObject({ param: 'context_id' });
});

test('a system message to a context is refused', async () => {
  const response = await post({
    messages: [system('s'), user('q')],
    context_id: contextId,
  });
  expect(response.status).toBe(400);
  expect(await openAiError(response)).toMatchObject({
    type: 'invalid_request_error',
    code: 'invalid_argument',
    param: 'messages.0.role',
    message: expect.stringContaining('belong to the context') as string,
  });
});

test("a developer's message is a system message, and parts are one text", async () => {
  const content = [
    { type: 'text', text: 'abc' },
    { type: 'text', text: 'def' },
  ] as const;
  await complete([
    { role: 'developer', content: 'Be brief.' },
    { role: 'user', content: [...content], name: 'Ada' },
  ]);
  expect(lastQuery()).toMatchObject({
    source: { instructions: 'Be brief.' },
    turns: [user('abc\ndef')],
  });
});

test('an answer can be sent back as it came', async () => {
  const first = await complete([user('abc')]);
  const [choice] = first.choices;
  if (choice === undefined) throw new Error('expected a choice');
  await complete([user('abc'), choice.message, user('def')]);
  expect(lastQuery()?.turns).toEqual([user('abc'), assistant('cba'), user('def')]);
});

test('sampling is passed on, and null is as good as nothing', async () => {
  const given = { temperature: 0.5, top_p: 0, max_tokens: 9, stop: 'x', seed: -1 };
  await complete([user('abc')], given);
  expect(lastQuery()?.sampling).toMatchObject({
    temperature: 0.5,
    topP: 0,
    maxTokens: 9,
    stop: ['x'],
    seed: seedEnd - 1,
  });
  await complete([user('abc')], { max_tokens: 9, max_completion_tokens: 7, stop: ['x', 'y'] });
  expect(lastQuery()?.sampling).toMatchObject({ maxTokens: 7, stop: ['x', 'y'] });
  const names = ['temperature', 'top_p', 'max_tokens', 'max_completion_tokens', 'seed', 'stop'];
  const more = [
    'n',
    'stream',
    'stream_options',
    'store',
    'context_id',
    'tools',
    'metadata',
    'user',
  ];
  await complete([user('abc')], Object.fromEntries([...names, ...more].map((x) => [x, null])));
  expect(lastQuery()?.sampling).toMatchObject({
    temperature: 0,
    topP: 1,
    maxTokens: 128,
    stop: [],
  });
});

test('what changes nothing is ignored', async () => {
  await complete([user('abc')], {
    n: 1,
    frequency_penalty: 0,
    presence_penalty: 0,
    logprobs: false,
    top_logprobs: 0,
    logit_bias: {},
    response_format: { type: 'text' },
    tools: [],
    tool_choice: 'auto',
    parallel_tool_calls: true,
    metadata: { a: 'b' },
    user: 'u',
    service_tier: 'auto',
    modalities: ['text'],
  });
});

test.each<[string, Extra, string]>([
  ['several choices', { n: 2 }, 'n'],
  ['a penalty', { frequency_penalty: 0.5 }, 'frequency_penalty'],
  ['the other penalty', { presence_penalty: -1 }, 'presence_penalty'],
  ['log probabilities', { logprobs: true }, 'logprobs'],
  ['a bias', { logit_bias: { 50: 1 } }, 'logit_bias.50'],
  ['JSON answers', { response_format: { type: 'json_object' } }, 'response_format.type'],
  ['tools', { tools: [{ type: 'function', function: { name: 'f' } }] }, 'tools'],
  ['a tool that must be used', { tool_choice: 'required' }, 'tool_choice'],
  ['an unknown field', { reasoning_effort: 'low' }, 'reasoning_effort'],
  ['no messages', { messages: [] }, 'messages'],
  ['a tool message', { messages: [{ role: 'tool', content: 'x' }] }, 'messages.0.role'],
  [
    'a picture',
    { messages: [{ role: 'user', content: [{ type: 'image_url' }] }] },
    'messages.0.content',
  ],
  ['a NUL', { messages: [{ role: 'user', content: 'a\0' }] }, 'messages.0.content'],
  ['two users in turn', { messages: [user('a'), user('b')] }, 'messages.1.role'],
  ['temperature above 2', { temperature: 2.5 }, 'temperature'],
  ['max_tokens 0', { max_tokens: 0 }, 'max_tokens'],
])('a chat refuses %s', async (_, body, param) => {
  const response = await post(body);
  expect(response.status).toBe(400);
  const error = await openAiError(response);
  expect(error).toMatchObject({ type: 'invalid_request_error', code: 'invalid_argument', param });
  expect(error.message).toMatch(/^Expected .+ but got /);
  expect(server.engine.queries).toEqual([]);
});

test('the model must be the one that is served', async () => {
  const response = await post({ model: 'gpt-4o' });
  expect(response.status).toBe(404);
  const error = await openAiError(response);
  expect(error).toMatchObject({ code: 'model_not_found', param: 'model' });
  expect(error.message).toContain('"fake"');
});

test.each<[string, () => Promise<Response>, number, string]>([
  ['no context', () => post({ context_id: 'ctx_1' }), 404, 'not_found'],
  ['no path', () => server.request('/v1/embeddings'), 404, 'not_found'],
  ['no method', () => server.request('/v1/chat/completions'), 405, 'method_not_allowed'],
  ['no JSON', () => post({}, { 'Content-Type': 'text/plain' }), 415, 'unsupported_media_type'],
])('errors are in the envelope of OpenAI: %s', async (_, send, status, code) => {
  const response = await send();
  expect(response.status).toBe(status);
  expect(await openAiError(response)).toMatchObject({ type: 'invalid_request_error', code });
});

test('an error of the engine keeps its status and Retry-After', async () => {
  server.engine.queryFailure = new ReadonceError('overloaded', 'Expected a shorter queue.', {
    retryAfterSeconds: 2,
  });
  const response = await post({ stream: true });
  server.engine.queryFailure = undefined;
  expect(response.status).toBe(503);
  expect(response.headers.get('retry-after')).toBe('2');
  expect(await openAiError(response)).toMatchObject({ type: 'server_error', code: 'overloaded' });
});

async function chunksOf(extra: Extra, messages: readonly Message[] = [user('abc')]) {
  const body = { model: 'fake', messages: [...messages], stream: true, ...extra };
  const stream = await client.chat.completions.create(
    body as OpenAI.ChatCompletionCreateParamsStreaming,
  );
  const chunks: OpenAI.ChatCompletionChunk[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  for (const chunk of chunks) expect(chunkSchema.strict().parse(chunk)).toEqual(chunk);
  return chunks;
}

test('a streamed chat is chunks whose contents are the answer', async () => {
  const chunks = await chunksOf({ context_id: contextId });
  const [first, ...rest] = chunks.map(({ choices }) => choices[0]);
  expect(first?.delta).toEqual({ role: 'assistant', content: '' });
  expect(rest.map((choice) => choice?.delta.content ?? '').join('')).toBe('cba');
  expect(rest.at(-1)).toMatchObject({ delta: {}, finish_reason: 'stop' });
  expect(new Set(chunks.map(({ id, created }) => `${id} ${created}`)).size).toBe(1);
  expect(chunks.at(-1)).toMatchObject({ context_id: contextId });
  expect(chunks.some((chunk) => 'usage' in chunk)).toBe(false);
});

test('a streamed chat tells its usage last, if asked to', async () => {
  const chunks = await chunksOf({ stream_options: { include_usage: true } });
  const usages = chunks.map(({ usage }) => usage);
  expect(usages.slice(0, -1).every((usage) => usage === null)).toBe(true);
  expect(chunks.at(-1)).toMatchObject({
    choices: [],
    usage: { prompt_tokens: 3, completion_tokens: 3, total_tokens: 6 },
  });
});

test('a stream ends with [DONE]', async () => {
  const text = await (await post({ stream: true })).text();
  expect(text.endsWith('data: [DONE]\n\n')).toBe(true);
  expect(text).not.toContain('event:');
});

test('an error after the first piece ends the stream, and the client throws it', async () => {
  server.engine.lateQueryFailure = new ReadonceError('engine_unavailable', 'The engine died.');
  const failing = chunksOf({});
  await expect(failing).rejects.toMatchObject({ code: 'engine_unavailable' });
  server.engine.lateQueryFailure = undefined;
});

test('a client that goes away in the middle of a stream stops its answer', async () => {
  server.engine.textGate = new Gate();
  const { aborted } = server.engine;
  const stream = await client.chat.completions.create({
    model: 'fake',
    messages: [user('abc')],
    stream: true,
  });
  for await (const chunk of stream) if (chunk.choices[0]?.delta.content === 'c') break;
  await until(() => server.engine.aborted === aborted + 1);
  server.engine.textGate = undefined;
});
