import { createRoute } from '@hono/zod-openapi';
import { answerResponse } from '../answer-response.ts';
import type { App, AppDeps } from '../app-env.ts';
import { readBody } from '../body.ts';
import { contextParameters } from '../schemas/context.ts';
import { noParameters } from '../schemas/fields.ts';
import { problems, questionCodes } from '../schemas/problem.ts';
import { answerResponses, answerSchema, queryBody } from '../schemas/query.ts';

/** `POST /contexts/{id}/query`: ask. A client that goes away stops the engine's work for it. */
export function queryRoutes(app: App, { service, limits, logger }: AppDeps): void {
  const route = createRoute({
    method: 'post',
    path: '/contexts/{id}/query',
    operationId: 'query',
    summary: 'Answer a question from a stored context',
    description:
      'None of the document is computed again. With `stream`, server-sent events: `token` ' +
      '{text}, whose concatenation is the answer, then `done` (the answer object). The response ' +
      'begins with the first of them, or after ten seconds; from then on an error is an `error` ' +
      'event with a problem.',
    tags: ['queries'],
    middleware: [readBody({ mediaTypes: ['application/json'], maxBytes: limits.maxBodyBytes })],
    request: {
      params: contextParameters,
      query: noParameters,
      body: { required: true, content: { 'application/json': { schema: queryBody } } },
    },
    responses: {
      ...answerResponses(answerSchema),
      ...problems(...questionCodes, 'conflict', 'gone'),
    },
  });
  app.openapi(route, (c) => {
    const ref = { ...c.req.valid('param'), tenant: c.var.tenant };
    const { stream, ...input } = c.req.valid('json');
    const ask = (onText: (text: string) => void) =>
      service.queries.query(ref, input, { arrivedAtMs: c.var.arrivedAtMs, onText }, c.var.signal);
    return answerResponse(c, { stream, ask }, { limits, logger });
  });
}
