import { createRoute } from '@hono/zod-openapi';
import type { App, AppDeps } from '../app-env.ts';
import { contextParameters, importanceParameters, importanceSchema } from '../schemas/context.ts';
import { problems } from '../schemas/problem.ts';

/** `GET /contexts/{id}/importance`: what a context kept, for a heat map. */
export function importanceRoutes(app: App, { service }: AppDeps): void {
  const route = createRoute({
    method: 'get',
    path: '/contexts/{id}/importance',
    operationId: 'getImportance',
    summary: 'What a context kept, by layer and KV head',
    description: 'With `layer` and `head`, also the tokens that head kept and their scores.',
    tags: ['contexts'],
    request: { params: contextParameters, query: importanceParameters },
    responses: {
      200: {
        description: 'Counts, and one head.',
        content: { 'application/json': { schema: importanceSchema } },
      },
      ...problems('invalid_argument', 'not_found', 'conflict', 'gone', 'corrupt_record'),
    },
  });
  app.openapi(route, (c) => {
    const { layer, head } = c.req.valid('query');
    const ref = { ...c.req.valid('param'), tenant: c.var.tenant };
    const importance = service.contexts.importance(ref, { layer, head });
    return c.json({ object: 'importance' as const, ...importance }, 200);
  });
}
