import { createRoute } from '@hono/zod-openapi';
import { randomBytes } from 'node:crypto';
import { unknownModel } from '../../service/chats.ts';
import type { ModelView } from '../../service/service.ts';
import { streamedAnswer } from '../answer-response.ts';
import type { App, AppDeps } from '../app-env.ts';
import { readBody } from '../body.ts';
import { chatInput, completion, CompletionChunks } from '../chat-messages.ts';
import { openAiError } from '../openai-error.ts';
import {
  chatBody,
  chatHeaders,
  completionSchema,
  modelParameters,
  openAiErrors,
  openAiModelListSchema,
  openAiModelSchema,
} from '../schemas/chat.ts';
import { noParameters } from '../schemas/fields.ts';
import { questionCodes } from '../schemas/problem.ts';
import { answerResponses } from '../schemas/query.ts';

const tags = ['openai'];

/** What OpenAI's clients need: chat completions, and the models that can be named in them. */
export function chatRoutes(app: App, deps: AppDeps): void {
  registerCompletions(app, deps);
  registerModels(app, deps);
}

function registerCompletions(app: App, deps: AppDeps): void {
  const { service, limits, clock } = deps;
  const route = createRoute({
    method: 'post',
    path: '/v1/chat/completions',
    operationId: 'createChatCompletion',
    summary: 'Answer a chat, as OpenAI does',
    description:
      'From the context that is named, or from the one whose document the chat begins with; else ' +
      'the prompt is computed for this chat alone. With `stream`, server-sent events: chunks, ' +
      'then `[DONE]`. Greedy unless `temperature` is given.',
    tags,
    middleware: [readBody({ mediaTypes: ['application/json'], maxBytes: limits.maxBodyBytes })],
    request: {
      query: noParameters,
      headers: chatHeaders,
      body: { required: true, content: { 'application/json': { schema: chatBody } } },
    },
    responses: {
      ...answerResponses(completionSchema),
      ...openAiErrors(...questionCodes, 'conflict', 'gone', 'storage_full'),
    },
  });
  app.openapi(route, async (c) => {
    const body = c.req.valid('json');
    const chat = chatInput(body, c.req.valid('header')['x-context-id']);
    const input = { tenant: c.var.tenant, ...chat };
    const facts = {
      id: `chatcmpl-${randomBytes(16).toString('hex')}`,
      created: Math.floor(clock.nowMs() / 1000),
      model: body.model,
    };
    const ask = (onText: (text: string) => void) =>
      service.chats.complete(input, { arrivedAtMs: c.var.arrivedAtMs, onText }, c.var.signal);
    if (body.stream !== true) return c.json(completion(facts, await ask(() => undefined)), 200);
    const chunks = new CompletionChunks(facts, body.stream_options?.include_usage ?? false);
    const stream = {
      ask,
      textEvents: (text: string) => chunks.text(text),
      doneEvents: chunks.done.bind(chunks),
      errorEvent: (problem: Parameters<typeof openAiError>[0]) => ({ data: openAiError(problem) }),
    };
    return streamedAnswer(c, stream, deps);
  });
}

function registerModels(app: App, { service }: AppDeps): void {
  const list = createRoute({
    method: 'get',
    path: '/v1/models',
    operationId: 'listOpenAiModels',
    summary: 'The models, as OpenAI lists them',
    tags,
    request: { query: noParameters },
    responses: {
      200: {
        description: 'All.',
        content: { 'application/json': { schema: openAiModelListSchema } },
      },
      ...openAiErrors(),
    },
  });
  app.openapi(list, (c) =>
    c.json({ object: 'list' as const, data: service.models().map(openAiModel) }, 200),
  );
  const get = createRoute({
    method: 'get',
    path: '/v1/models/{id}',
    operationId: 'getOpenAiModel',
    summary: 'One model, as OpenAI has it',
    tags,
    request: { params: modelParameters, query: noParameters },
    responses: {
      200: {
        description: 'The model.',
        content: { 'application/json': { schema: openAiModelSchema } },
      },
      ...openAiErrors('not_found'),
    },
  });
  app.openapi(get, (c) => {
    const models = service.models();
    const found = models.find(({ id }) => id === c.req.valid('param').id);
    if (found === undefined) throw unknownModel(models[0]?.id);
    return c.json(openAiModel(found), 200);
  });
}

function openAiModel({ id }: ModelView) {
  return { id, object: 'model', created: 0, owned_by: 'readonce' } as const;
}
