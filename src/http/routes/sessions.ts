import { createRoute, z } from '@hono/zod-openapi';
import { answerResponse } from '../answer-response.ts';
import type { App, AppDeps } from '../app-env.ts';
import { readBody } from '../body.ts';
import { contextParameters } from '../schemas/context.ts';
import { noParameters } from '../schemas/fields.ts';
import { problems, questionCodes } from '../schemas/problem.ts';
import { answerResponses, sessionAnswerSchema, sessionQueryBody } from '../schemas/query.ts';
import { openSessionBody, sessionParameters, sessionSchema } from '../schemas/session.ts';

const tags = ['sessions'];
const mediaTypes = ['application/json'];

/** Conversations that the engine holds: open, read, ask, end. */
export function sessionRoutes(app: App, deps: AppDeps): void {
  registerOpen(app, deps);
  registerGet(app, deps);
  registerEnd(app, deps);
  registerQuery(app, deps);
}

function registerOpen(app: App, { service, limits }: AppDeps): void {
  const route = createRoute({
    method: 'post',
    path: '/contexts/{id}/sessions',
    operationId: 'openSession',
    summary: 'Open a session with a stored context',
    description:
      'A session keeps its conversation in memory, so that each question is computed once. It ' +
      'ends with its time, its context or the engine, or, while it is idle, when memory is short.',
    tags,
    middleware: [readBody({ mediaTypes, maxBytes: limits.maxBodyBytes, optional: true })],
    request: {
      params: contextParameters,
      query: noParameters,
      body: { content: { 'application/json': { schema: openSessionBody } } },
    },
    responses: {
      201: {
        description: 'The session.',
        content: { 'application/json': { schema: sessionSchema } },
        headers: z.object({ Location: z.string().openapi({ description: 'The session.' }) }),
      },
      ...problems(
        'invalid_argument',
        'not_found',
        'conflict',
        'identity_mismatch',
        'gone',
        'payload_too_large',
        'unsupported_media_type',
        'corrupt_record',
        'engine_unavailable',
        'rate_limited',
        'overloaded',
        'out_of_memory',
      ),
    },
  });
  app.openapi(route, async (c) => {
    const ref = { ...c.req.valid('param'), tenant: c.var.tenant };
    const session = await service.sessions.open(ref, c.req.valid('json'), c.var.signal);
    c.header('Location', `/sessions/${session.id}`);
    return c.json(session, 201);
  });
}

function registerGet(app: App, { service }: AppDeps): void {
  const route = createRoute({
    method: 'get',
    path: '/sessions/{id}',
    operationId: 'getSession',
    summary: 'Read a session',
    tags,
    request: { params: sessionParameters, query: noParameters },
    responses: {
      200: {
        description: 'The session.',
        content: { 'application/json': { schema: sessionSchema } },
      },
      ...problems('not_found', 'corrupt_record', 'engine_unavailable'),
    },
  });
  app.openapi(route, async (c) => {
    const ref = { ...c.req.valid('param'), tenant: c.var.tenant };
    return c.json(await service.sessions.get(ref), 200);
  });
}

function registerEnd(app: App, { service }: AppDeps): void {
  const route = createRoute({
    method: 'delete',
    path: '/sessions/{id}',
    operationId: 'endSession',
    summary: 'End a session; its context stays',
    tags,
    request: { params: sessionParameters, query: noParameters },
    responses: {
      204: { description: 'It has ended.' },
      ...problems('not_found', 'corrupt_record', 'engine_unavailable'),
    },
  });
  app.openapi(route, async (c) => {
    await service.sessions.end({ ...c.req.valid('param'), tenant: c.var.tenant });
    return c.body(null, 204);
  });
}

function registerQuery(app: App, { service, limits, logger }: AppDeps): void {
  const route = createRoute({
    method: 'post',
    path: '/sessions/{id}/query',
    operationId: 'querySession',
    summary: "Ask a session's next question",
    description:
      'As a query of a context, `stream` included; the question and its answer become part of ' +
      'the session.',
    tags,
    middleware: [readBody({ mediaTypes, maxBytes: limits.maxBodyBytes })],
    request: {
      params: sessionParameters,
      query: noParameters,
      body: { required: true, content: { 'application/json': { schema: sessionQueryBody } } },
    },
    responses: {
      ...answerResponses(sessionAnswerSchema),
      ...problems(...questionCodes),
    },
  });
  app.openapi(route, (c) => {
    const ref = { ...c.req.valid('param'), tenant: c.var.tenant };
    const { stream, ...input } = c.req.valid('json');
    const ask = (onText: (text: string) => void) =>
      service.sessions.query(ref, input, { arrivedAtMs: c.var.arrivedAtMs, onText }, c.var.signal);
    return answerResponse(c, { stream, ask }, { limits, logger });
  });
}
