import { createRoute, z } from '@hono/zod-openapi';
import type { App, AppDeps } from '../app-env.ts';
import { streamBody } from '../body.ts';
import { byteStream } from '../byte-stream.ts';
import { contextParameters, contextSchema } from '../schemas/context.ts';
import { noParameters } from '../schemas/fields.ts';
import { problems } from '../schemas/problem.ts';

const mediaType = 'application/octet-stream';
const tags = ['contexts'];
const file = () => ({
  [mediaType]: {
    schema: z.string().openapi({ format: 'binary', description: 'storage/PORTABLE.md has it.' }),
  },
});

/** Contexts as files: `GET /contexts/{id}/export` and `POST /contexts/import`. */
export function transferRoutes(app: App, deps: AppDeps): void {
  registerExport(app, deps);
  registerImport(app, deps);
}

function registerExport(app: App, { service, logger }: AppDeps): void {
  const route = createRoute({
    method: 'get',
    path: '/contexts/{id}/export',
    operationId: 'exportContext',
    summary: 'A context as one file, to import elsewhere',
    description: 'A transfer that ends early is of no use: the file ends with a checksum.',
    tags,
    request: { params: contextParameters, query: noParameters },
    responses: {
      200: {
        description: 'The file.',
        content: file(),
        headers: z.object({
          'Content-Disposition': z.string().openapi({ description: 'A name for the file.' }),
        }),
      },
      ...problems('not_found', 'conflict', 'gone', 'unsupported', 'corrupt_record'),
    },
  });
  app.openapi(route, async (c) => {
    const { id } = c.req.valid('param');
    const { outgoing } = c.env;
    const parts = service.transfers.export({ id, tenant: c.var.tenant });
    const body = await byteStream(parts, {
      signal: c.var.signal,
      onBegin: c.var.beginStream,
      onError: (error) => {
        logger.error({ err: error, requestId: c.var.requestId, contextId: id }, 'export broke off');
      },
      breakOff: outgoing && (() => outgoing.destroy()),
    });
    return c.body(body, 200, {
      'Content-Type': mediaType,
      'Content-Disposition': `attachment; filename="${id}.readonce"`,
    });
  });
}

function registerImport(app: App, { service, limits }: AppDeps): void {
  const context = { 'application/json': { schema: contextSchema } };
  const route = createRoute({
    method: 'post',
    path: '/contexts/import',
    operationId: 'importContext',
    summary: 'Store the context of an exported file',
    description:
      'Refused unless the file is whole and of the model that runs here. Whoever made the file ' +
      'decides what is answered from it: import only files of those you trust.',
    tags,
    request: { query: noParameters, body: { content: file() } },
    responses: {
      200: { description: 'It was stored already.', content: context },
      201: {
        description: 'It was imported.',
        content: context,
        headers: z.object({ Location: z.string().openapi({ description: 'The context.' }) }),
      },
      ...problems(
        'invalid_argument',
        'conflict',
        'identity_mismatch',
        'payload_too_large',
        'unsupported_media_type',
        'unsupported',
        'engine_unavailable',
        'rate_limited',
        'overloaded',
        'storage_full',
      ),
    },
  });
  app.openapi(route, async (c) => {
    const options = {
      mediaTypes: [mediaType],
      maxBytes: limits.maxImportBytes,
      advice: 'Raise maxImportBytes in the configuration.',
    };
    const { tenant, signal } = c.var;
    const stream = streamBody(c.req.raw, options, signal);
    const { outcome, context } = await service.transfers.import(tenant, stream, signal);
    if (outcome === 'reused') return c.json(context, 200);
    c.header('Location', `/contexts/${context.id}`);
    return c.json(context, 201);
  });
}
