import OpenAI, { BadRequestError, NotFoundError } from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ServerProcess } from '../../src/cli/server-process.ts';
import type { Context } from '../../src/client/types.ts';
import { createWorkspace, observatory, questions, startServer } from './support.ts';

/* OpenAI's own client against the compiled program, over real HTTP, with the small model. */

const workspace = createWorkspace();
let server: ServerProcess;
let openai: OpenAI;
/** `observatory`, with the defaults. */
let context: Context;

beforeAll(async () => {
  server = await startServer(workspace);
  openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 });
  context = await server.client.put({ document: observatory });
});
afterAll(async () => {
  await server.stop();
  workspace.remove();
});

type Message = OpenAI.ChatCompletionMessageParam;
type Completion = OpenAI.ChatCompletion & { readonly context_id?: string };

const user = (content: string): Message => ({ role: 'user', content });
const assistant = (content: string): Message => ({ role: 'assistant', content });
const system = (content: string): Message => ({ role: 'system', content });
const [question = '', otherQuestion = ''] = questions;

/** What OpenAI's types have no field for goes into the body all the same. */
function complete(messages: Message[], extra: Record<string, unknown> = {}): Promise<Completion> {
  const body = { model: 'reader-mini', messages, max_tokens: 16, ...extra };
  return openai.chat.completions.create(body as OpenAI.ChatCompletionCreateParamsNonStreaming);
}

const contentOf = ({ choices: [choice] }: Completion) => choice?.message.content;

async function storedIds(): Promise<readonly string[]> {
  return (await server.client.list({ limit: 100 })).data.map(({ id }) => id);
}

describe("OpenAI's client", () => {
  it('finds the model', async () => {
    const { data } = await openai.models.list();
    expect(data.map(({ id }) => id)).toEqual(['reader-mini']);
    expect(await openai.models.retrieve('reader-mini')).toEqual(data[0]);
    await expect(openai.models.retrieve('gpt-4o')).rejects.toBeInstanceOf(NotFoundError);
  });

  it('gets the answer of a query of the context, and its usage', async () => {
    const { answer, usage } = await server.client.query(context.id, {
      query: question,
      maxTokens: 16,
    });
    const completion = await complete([user(question)], { context_id: context.id });
    expect(contentOf(completion)).toBe(answer);
    expect(answer).not.toBe('');
    expect(completion.context_id).toBe(context.id);
    const cached = completion.usage?.prompt_tokens_details?.cached_tokens ?? 0;
    // The prefix is part of the context too.
    expect(cached).toBeGreaterThan(context.document.tokens);
    expect(completion.usage).toMatchObject({
      prompt_tokens: cached + usage.queryTokens,
      completion_tokens: usage.completionTokens,
      total_tokens: cached + usage.queryTokens + usage.completionTokens,
    });
  });

  it('names the context in a header as well', async () => {
    const headers = { 'X-Context-Id': context.id };
    const completion: Completion = await openai.chat.completions.create(
      { model: 'reader-mini', messages: [user(question)], max_tokens: 16 },
      { headers },
    );
    expect(completion.context_id).toBe(context.id);
  });

  it('streams the same answer, with its usage last', async () => {
    const whole = await complete([user(question)], { context_id: context.id });
    const stream = await openai.chat.completions.create(
      {
        model: 'reader-mini',
        messages: [user(question)],
        max_tokens: 16,
        stream: true,
        stream_options: { include_usage: true },
      },
      { headers: { 'X-Context-Id': context.id } },
    );
    let text = '';
    let usage: OpenAI.CompletionUsage | null | undefined;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? '';
      ({ usage } = chunk);
    }
    expect(text).toBe(contentOf(whole));
    expect(usage).toEqual(whole.usage);
  });

  it('is answered from a stored document that a chat begins with', async () => {
    for (const first of [system(observatory), user(`\n${observatory} `)]) {
      const completion = await complete([first, user(question)]);
      expect(completion.context_id).toBe(context.id);
    }
  });

  it('stores a document when it is told to, once', async () => {
    const document = `${observatory}\n\nThe porter is called Ines Varga.`;
    const messages = [system(document), user('Who is the porter?')];
    const first = await complete(messages, { store: true });
    const again = await complete(messages, { store: true });
    expect(await storedIds()).toContain(first.context_id);
    expect(again.context_id).toBe(first.context_id);
    expect(contentOf(again)).toBe(contentOf(first));
  });

  it('gets errors that it understands', async () => {
    const refused = complete([system('s'), user('q')], { context_id: context.id });
    await expect(refused).rejects.toBeInstanceOf(BadRequestError);
    await expect(refused).rejects.toMatchObject({ param: 'messages.0.role' });
    const unknown = complete([user('q')], { context_id: `ctx_${'0'.repeat(40)}` });
    await expect(unknown).rejects.toMatchObject({ status: 404, code: 'not_found' });
    const tools = complete([user('q')], { tools: [{ type: 'function', function: {} }] });
    await expect(tools).rejects.toMatchObject({ status: 400, param: 'tools' });
    const long = complete([user('q')], { context_id: context.id, max_tokens: 100_000 });
    await expect(long).rejects.toMatchObject({ status: 422, code: 'context_too_long' });
  });
});

describe("OpenAI's client, in conversations", () => {
  it('sends an answer back and asks on', async () => {
    const first = await complete([user(question)], { context_id: context.id });
    const answer = first.choices[0]?.message ?? assistant('');
    const messages = [user(question), answer, user(otherQuestion)];
    const second = await complete(messages, { context_id: context.id });
    expect(contentOf(second)).not.toBe('');
    expect(second.usage?.prompt_tokens).toBeGreaterThan(first.usage?.prompt_tokens ?? Infinity);
  });

  it('reads a document for one chat where it is not stored', async () => {
    const document = `${observatory}\n\nThe gardener is called Piet Mulder.`;
    const before = await storedIds();
    const completion = await complete([user(document), user('Who is the gardener?')]);
    expect(completion).not.toHaveProperty('context_id');
    expect(contentOf(completion)).not.toBe('');
    expect(completion.usage?.prompt_tokens_details?.cached_tokens).toBe(0);
    expect(await storedIds()).toEqual(before);
    // All pairs of a context are what a prompt has too.
    const all = { method: 'none', precision: 'f32' };
    const { id } = await server.client.put({ document, compression: all });
    const query = { query: 'Who is the gardener?', maxTokens: 16 };
    const { answer, usage } = await server.client.query(id, query);
    expect(contentOf(completion)).toBe(answer);
    const template = (completion.usage?.prompt_tokens ?? 0) - usage.contextTokens;
    expect(template).toBeGreaterThan(usage.queryTokens);
  });

  it('chats without any document', async () => {
    const completion = await complete([system('Be brief.'), user('Say hello.')]);
    expect(completion).not.toHaveProperty('context_id');
    expect(completion.usage?.completion_tokens).toBeGreaterThan(0);
  });
});

// These wait for an engine that holds sessions.
describe('a session', () => {
  it('answers its first question as a query, and the next as messages would be', async () => {
    const { sessions } = server.client;
    const session = await sessions.open(context.id);
    const first = await sessions.query(session.id, { query: question, maxTokens: 32 });
    const alone = await server.client.query(context.id, { query: question, maxTokens: 32 });
    expect(first.answer).toBe(alone.answer);
    const second = await sessions.query(session.id, { query: otherQuestion, maxTokens: 32 });
    expect(second).toMatchObject({ contextId: context.id, sessionId: session.id });
    expect(second.usage.prefilledTokens).toBe(second.usage.queryTokens);
    const held = await sessions.get(session.id);
    expect(held).toMatchObject({ turns: 2, keepRatio: context.compression.keepRatio });
    expect(held.tokens).toBeGreaterThan(0);
    await sessions.end(session.id);
    await expect(sessions.get(session.id)).rejects.toMatchObject({ code: 'not_found' });
  });

  it('ends with its context', async () => {
    const { id } = await server.client.put({ document: 'The bridge was opened in 1931.' });
    const session = await server.client.sessions.open(id);
    await server.client.delete(id);
    const asking = server.client.sessions.query(session.id, { query: 'When was it opened?' });
    await expect(asking).rejects.toMatchObject({ code: 'not_found' });
  });
});
