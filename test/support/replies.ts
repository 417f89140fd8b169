import { bearer } from './tenants.ts';
import type { TestServer } from './test-server.ts';

/** An answer, whole; a body that is no JSON is its `text`. */
export interface Reply {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Record<string, unknown>;
}

/** What is asked of a server, and with whose key. */
export interface Asked {
  readonly key?: string | undefined;
  readonly method: string;
  readonly path: string;
  /** Sent as JSON. */
  readonly value?: object | undefined;
  readonly headers?: Readonly<Record<string, string>>;
}

/** Asks, and reads the whole answer. */
export async function replyTo(
  server: Pick<TestServer, 'request'>,
  { key, method, path, value, headers }: Asked,
): Promise<Reply> {
  const response = await server.request(path, {
    method,
    headers: {
      ...(key === undefined ? {} : bearer(key)),
      ...(value === undefined ? {} : { 'Content-Type': 'application/json' }),
      ...headers,
    },
    ...(value === undefined ? {} : { body: JSON.stringify(value) }),
  });
  const text = await response.text();
  const isJson = text !== '' && (response.headers.get('content-type') ?? '').includes('json');
  return {
    status: response.status,
    headers: response.headers,
    body: isJson ? (JSON.parse(text) as Record<string, unknown>) : { text },
  };
}

/** What tells one answer from another, but for the request's own path and id. */
export function essence({ status, headers, body }: Reply) {
  const { instance: _instance, requestId: _requestId, ...rest } = body;
  const own = new Set(['x-request-id', 'date', 'content-length']);
  const names = [...headers.keys()].filter((name) => !own.has(name));
  return { status, body: rest, headers: names.map((name) => [name, headers.get(name)]) };
}
