import type { App } from './app-env.ts';
import { openPath } from './authentication.ts';
import { noParameters } from './schemas/fields.ts';
import { validate } from './validation.ts';
import { maxTimeoutMs, timeoutHeader } from './request-life.ts';

const description =
  'Reads a document once: its KV cache is computed, compressed and stored, and every later ' +
  'question is answered from it without computing the document again. ' +
  'Errors are problems (RFC 9457).';

const methods = ['get', 'put', 'post', 'patch', 'delete'] as const;

/** How the server that is described was started. */
export interface OpenApiOptions {
  /** It has API keys. */
  readonly needsKey: boolean;
}

/**
 * Serves `/openapi.json`, generated from the schemas that validate requests. Call it after all
 * routes are declared: the document is made at the first request and kept.
 */
export function openApiRoute(app: App, options: OpenApiOptions): void {
  let document: object | undefined;
  app.get('/openapi.json', (c) => {
    validate(noParameters, c.req.query());
    document ??= openApiDocument(app, options);
    return c.json(document, 200);
  });
}

function openApiDocument(app: App, { needsKey }: OpenApiOptions): object {
  app.openAPIRegistry.registerComponent('securitySchemes', 'apiKey', {
    type: 'http',
    scheme: 'bearer',
    description: 'An API key; it belongs to one tenant. Without keys configured, none is needed.',
  });
  app.openAPIRegistry.registerComponent('parameters', 'timeout', {
    name: timeoutHeader,
    in: 'header',
    description:
      'How long the client will wait, in ms. An answer that is not complete by then becomes ' +
      '`deadline_exceeded`.',
    schema: { type: 'integer', minimum: 1, maximum: maxTimeoutMs },
  });
  const document = app.getOpenAPI31Document({
    openapi: '3.1.0',
    info: { title: 'readonce', version: '1', description },
    servers: [{ url: '/' }],
    security: needsKey ? [{ apiKey: [] }] : [{}, { apiKey: [] }],
  });
  for (const [path, item] of Object.entries(document.paths ?? {})) {
    for (const operation of methods.flatMap((method) => item[method] ?? [])) {
      if (path === openPath) operation.security = [];
      else (operation.parameters ??= []).push({ $ref: '#/components/parameters/timeout' });
    }
  }
  // A declaration that required this body would validate the text media types as JSON.
  const put = document.paths?.['/contexts']?.put?.requestBody;
  if (put !== undefined && 'content' in put) put.required = true;
  return document;
}
