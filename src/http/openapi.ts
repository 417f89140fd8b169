import type { App } from './app-env.ts';

const description =
  'Reads a document once: its KV cache is computed, compressed and stored, and every later ' +
  'question is answered from it without computing the document again. ' +
  'Errors are problems (RFC 9457).';

/**
 * Serves `/openapi.json`, generated from the schemas that validate requests. Call it after all
 * routes are declared: the document is made at the first request and kept.
 */
export function openApiRoute(app: App): void {
  let document: object | undefined;
  app.get('/openapi.json', (c) => {
    document ??= openApiDocument(app);
    return c.json(document, 200);
  });
}

function openApiDocument(app: App): object {
  const document = app.getOpenAPI31Document({
    openapi: '3.1.0',
    info: { title: 'readonce', version: '1', description },
    servers: [{ url: '/' }],
  });
  // A declaration that required this body would validate the text media types as JSON.
  const put = document.paths?.['/contexts']?.put?.requestBody;
  if (put !== undefined && 'content' in put) put.required = true;
  return document;
}
