import { createRoute, z } from '@hono/zod-openapi';
import { assert } from '../../core/assert.ts';
import { mediaTypeOf, readBody } from '../body.ts';
import type { App, AppDeps } from '../app-env.ts';
import { validate } from '../validation.ts';
import {
  contextListSchema,
  contextParameters,
  contextSchema,
  listParameters,
  patchContextBody,
  putContextBody,
  putContextHeaders,
  putContextParameters,
} from '../schemas/context.ts';
import { noParameters } from '../schemas/fields.ts';
import { problems } from '../schemas/problem.ts';
import { invalidArgument } from '../../service/invalid-argument.ts';

const defaultPageSize = 20;
const tags = ['contexts'];

/** `/contexts` and `/contexts/{id}`: put, list, read, change, delete. */
export function contextRoutes(app: App, deps: AppDeps): void {
  registerPut(app, deps);
  registerList(app, deps);
  registerGet(app, deps);
  registerPatch(app, deps);
  registerDelete(app, deps);
}

function registerPut(app: App, { service, limits }: AppDeps): void {
  const mediaTypes = ['application/json', 'text/plain', 'text/markdown'];
  const context = { 'application/json': { schema: contextSchema } };
  const location = z.object({ Location: z.string().openapi({ description: 'The context.' }) });
  const route = createRoute({
    method: 'put',
    path: '/contexts',
    operationId: 'putContext',
    summary: 'Ingest a document, or find it already stored',
    description:
      'Idempotent: the same document, instructions and compression have the same context. The ' +
      'document is a field of a JSON body, or the body itself (text/plain, text/markdown) with ' +
      'the options as query parameters, which a JSON body excludes. `Prefer: respond-async` ' +
      'answers as soon as the id is known.',
    tags,
    middleware: [readBody({ mediaTypes, maxBytes: limits.maxBodyBytes })],
    request: {
      query: putContextParameters,
      headers: putContextHeaders,
      body: {
        content: {
          'application/json': { schema: putContextBody },
          'text/plain': { schema: z.string() },
          'text/markdown': { schema: z.string() },
        },
      },
    },
    responses: {
      200: {
        description: 'It was stored already, or another request ingested it.',
        content: context,
      },
      201: {
        description: 'This request ingested it, or had it derived from a stored one.',
        content: context,
        headers: location,
      },
      202: { description: 'It is being ingested.', content: context, headers: location },
      ...problems(
        'invalid_argument',
        'conflict',
        'payload_too_large',
        'unsupported_media_type',
        'unsupported',
        'context_too_long',
        'corrupt_record',
        'engine_unavailable',
        'rate_limited',
        'overloaded',
        'out_of_memory',
        'storage_full',
      ),
    },
  });
  app.openapi(route, async (c) => {
    const parameters = c.req.valid('query');
    const isJson = mediaTypeOf(c.req.header('Content-Type')) === 'application/json';
    const body = isJson
      ? jsonInput(c.req.valid('json'), parameters)
      : textInput(await c.req.text(), parameters);
    const wait = !prefersAsync(c.req.valid('header').prefer);
    const { outcome, context } = await service.put(
      {
        ...body,
        tenant: c.var.tenant,
        instructions: body.instructions,
        compression: body.compression ?? {},
      },
      { wait, signal: c.var.signal },
    );
    if (outcome === 'reused') return c.json(context, 200);
    c.header('Location', `/contexts/${context.id}`);
    if (outcome === 'created') return c.json(context, 201);
    c.header('Preference-Applied', 'respond-async');
    return c.json(context, 202);
  });
}

type PutBody = z.output<typeof putContextBody>;
type PutParameters = z.output<typeof putContextParameters>;

/** @throws ReadonceError `invalid_argument` */
function jsonInput(body: PutBody | string, parameters: PutParameters): PutBody {
  const [name] = Object.keys(parameters);
  if (name !== undefined) {
    throw invalidArgument(
      name,
      `Expected the options in the JSON body but got ${name} as a query parameter.`,
    );
  }
  // The declared type is that of any media type; a JSON body was validated as one.
  assert(typeof body !== 'string', 'expected a JSON body to be validated as one');
  return body;
}

/** @throws ReadonceError `invalid_argument` */
function textInput(document: string, parameters: PutParameters): PutBody {
  const { method, keepRatio, budget, precision, ...rest } = parameters;
  const compression = { method, keepRatio, budget, precision };
  return validate(putContextBody, { document, compression, ...rest });
}

/** Whether `Prefer` (RFC 7240) lists respond-async. */
function prefersAsync(prefer: string | undefined): boolean {
  const preferences = (prefer ?? '').split(',').map((part) => part.split(';', 1).join().trim());
  return preferences.some((preference) => preference.toLowerCase() === 'respond-async');
}

function registerList(app: App, { service }: AppDeps): void {
  const route = createRoute({
    method: 'get',
    path: '/contexts',
    operationId: 'listContexts',
    summary: 'List stored contexts, newest first',
    description: 'A page may be shorter than its limit although more follow: see `nextCursor`.',
    tags,
    request: { query: listParameters },
    responses: {
      200: {
        description: 'A page.',
        content: { 'application/json': { schema: contextListSchema } },
      },
      ...problems('invalid_argument'),
    },
  });
  app.openapi(route, (c) => {
    const { limit, cursor, label } = c.req.valid('query');
    const colon = label?.indexOf(':') ?? -1;
    const page = service.contexts.list({
      tenant: c.var.tenant,
      limit: limit ?? defaultPageSize,
      cursor,
      label:
        label === undefined
          ? undefined
          : { key: label.slice(0, colon), value: label.slice(colon + 1) },
    });
    return c.json(
      { object: 'list' as const, data: [...page.contexts], nextCursor: page.nextCursor },
      200,
    );
  });
}

function registerGet(app: App, { service }: AppDeps): void {
  const route = createRoute({
    method: 'get',
    path: '/contexts/{id}',
    operationId: 'getContext',
    summary: 'Read a context',
    tags,
    request: { params: contextParameters, query: noParameters },
    responses: {
      200: {
        description: 'The context.',
        content: { 'application/json': { schema: contextSchema } },
      },
      ...problems('not_found', 'gone', 'corrupt_record'),
    },
  });
  app.openapi(route, (c) =>
    c.json(service.contexts.get({ ...c.req.valid('param'), tenant: c.var.tenant }), 200),
  );
}

function registerPatch(app: App, { service, limits }: AppDeps): void {
  const route = createRoute({
    method: 'patch',
    path: '/contexts/{id}',
    operationId: 'changeContext',
    summary: 'Change how long a context is kept, and its labels',
    tags,
    middleware: [readBody({ mediaTypes: ['application/json'], maxBytes: limits.maxBodyBytes })],
    request: {
      params: contextParameters,
      query: noParameters,
      body: { required: true, content: { 'application/json': { schema: patchContextBody } } },
    },
    responses: {
      200: {
        description: 'The changed context.',
        content: { 'application/json': { schema: contextSchema } },
      },
      ...problems(
        'invalid_argument',
        'not_found',
        'conflict',
        'gone',
        'payload_too_large',
        'unsupported_media_type',
        'corrupt_record',
      ),
    },
  });
  app.openapi(route, async (c) => {
    const ref = { ...c.req.valid('param'), tenant: c.var.tenant };
    return c.json(await service.contexts.change(ref, c.req.valid('json')), 200);
  });
}

function registerDelete(app: App, { service }: AppDeps): void {
  const route = createRoute({
    method: 'delete',
    path: '/contexts/{id}',
    operationId: 'deleteContext',
    summary: 'Delete a context; one still being ingested is stopped',
    tags,
    request: { params: contextParameters, query: noParameters },
    responses: { 204: { description: 'It is gone.' }, ...problems('not_found') },
  });
  app.openapi(route, async (c) => {
    await service.contexts.delete({ ...c.req.valid('param'), tenant: c.var.tenant });
    return c.body(null, 204);
  });
}
