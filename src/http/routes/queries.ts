import { createRoute, z } from '@hono/zod-openapi';
import { AsyncQueue } from '../../service/async-queue.ts';
import type { Answer } from '../../service/queries.ts';
import type { App, AppDeps } from '../app-env.ts';
import { readBody } from '../body.ts';
import { contextParameters } from '../schemas/context.ts';
import { problems } from '../schemas/problem.ts';
import { answerSchema, queryBody } from '../schemas/query.ts';
import { eventStream, type ServerEvent } from '../sse.ts';

/** `POST /contexts/{id}/query`: ask. A client that goes away stops the engine's work for it. */
export function queryRoutes(app: App, { service, limits, logger }: AppDeps): void {
  const route = createRoute({
    method: 'post',
    path: '/contexts/{id}/query',
    operationId: 'query',
    summary: 'Answer a question from a stored context',
    description:
      'None of the document is computed again. With `stream`, server-sent events: `token` ' +
      '{text}, whose concatenation is the answer, then `done` (the answer object); after the ' +
      'first event an error is an `error` event with a problem.',
    tags: ['queries'],
    middleware: [readBody({ mediaTypes: ['application/json'], maxBytes: limits.maxBodyBytes })],
    request: {
      params: contextParameters,
      body: { required: true, content: { 'application/json': { schema: queryBody } } },
    },
    responses: {
      200: {
        description: 'The answer.',
        content: {
          'application/json': { schema: answerSchema },
          'text/event-stream': { schema: z.string() },
        },
      },
      ...problems(
        'invalid_argument',
        'not_found',
        'conflict',
        'gone',
        'payload_too_large',
        'unsupported_media_type',
        'unsupported',
        'context_too_long',
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
    const { stream, ...input } = c.req.valid('json');
    const ask = (onText: (text: string) => void): Promise<Answer> =>
      service.queries.query(
        ref,
        { ...input, query: input.query },
        { arrivedAtMs: c.var.arrivedAtMs, onText },
        c.var.signal,
      );
    if (stream !== true) return c.json(await ask(() => undefined), 200);
    return eventStream(c, answerEvents(ask), {
      heartbeatMs: limits.heartbeatMs,
      onError: (error) =>
        logger.warn({ err: error, code: error.code, requestId: c.var.requestId }, 'answer failed'),
    });
  });
}

/** The events of a streamed answer; no more of them wait than an answer has tokens. */
function answerEvents(
  ask: (onText: (text: string) => void) => Promise<Answer>,
): AsyncQueue<ServerEvent> {
  const queue = new AsyncQueue<ServerEvent>();
  const run = async (): Promise<void> => {
    try {
      const answer = await ask((text) => queue.push({ event: 'token', data: { text } }));
      queue.push({ event: 'done', data: answer });
      queue.end();
    } catch (error) {
      queue.fail(error);
    }
  };
  void run();
  return queue;
}
