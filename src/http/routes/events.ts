import { createRoute, z } from '@hono/zod-openapi';
import type { ContextEvent } from '../../service/contexts.ts';
import type { App, AppDeps } from '../app-env.ts';
import { problemOf } from '../problem.ts';
import { contextParameters } from '../schemas/context.ts';
import { noParameters } from '../schemas/fields.ts';
import { problems } from '../schemas/problem.ts';
import { eventStream, type ServerEvent } from '../sse.ts';

/** `GET /contexts/{id}/events`: follow an ingestion. */
export function eventRoutes(app: App, { service, limits, logger }: AppDeps): void {
  const route = createRoute({
    method: 'get',
    path: '/contexts/{id}/events',
    operationId: 'followContext',
    summary: 'Follow an ingestion',
    description:
      'Server-sent events: `progress` {phase, done, total} (tokens, or heads while persisting), ' +
      'then `ready` (the context) or `failed` (a problem). For a ready context, `ready` at once.',
    tags: ['contexts'],
    request: { params: contextParameters, query: noParameters },
    responses: {
      200: {
        description: 'The events.',
        content: { 'text/event-stream': { schema: z.string() } },
      },
      ...problems('not_found', 'gone', 'rate_limited', 'overloaded', 'corrupt_record'),
    },
  });
  app.openapi(route, async (c) => {
    const ref = { ...c.req.valid('param'), tenant: c.var.tenant };
    if (c.req.method === 'HEAD') {
      // Nobody would read the stream, and so nothing would end it.
      service.contexts.get(ref);
      return c.body(null, 200, { 'Content-Type': 'text/event-stream' });
    }
    const request = { instance: c.req.path, requestId: c.var.requestId };
    const events = service.contexts.events(ref, c.var.signal);
    const toServerEvent = (event: ContextEvent): ServerEvent => {
      if (event.kind === 'progress') return { event: 'progress', data: event.progress };
      if (event.kind === 'ready') return { event: 'ready', data: event.context };
      return { event: 'failed', data: problemOf(event.error, request) };
    };
    return eventStream(c, map(events, toServerEvent), {
      heartbeatMs: limits.heartbeatMs,
      // What could go wrong at first has been thrown by now.
      beginAfterMs: 0,
      onError: (error) => logger.error({ err: error, ...request }, 'event stream failed'),
    });
  });
}

async function* map<T, U>(source: AsyncIterable<T>, change: (item: T) => U) {
  for await (const item of source) yield change(item);
  return undefined;
}
