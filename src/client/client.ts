import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { ReadonceError } from '../core/errors.ts';
import { connectionError, problemError, readProblem } from './problem.ts';
import { parseSse, type SseEvent } from './sse.ts';
import type {
  Answer,
  AnswerEvent,
  Context,
  ContextChange,
  ContextList,
  ListRequest,
  Progress,
  PutRequest,
  QueryRequest,
  Session,
  SessionAnswer,
  SessionQueryRequest,
  SessionRequest,
} from './types.ts';

/** How to reach a server. */
export interface ClientOptions {
  /** For example `http://127.0.0.1:8080`; a path in it is kept. */
  readonly baseUrl: string;
  /** Sent with every request, to a server that wants one. */
  readonly apiKey?: string;
  /** Stands in for the global `fetch`, for tests and proxies. */
  readonly fetch?: typeof globalThis.fetch;
}

/** How to put. */
export interface PutOptions {
  /** Called as the ingestion advances; the request is then made asynchronously. */
  readonly onProgress?: (progress: Progress) => void;
  readonly signal?: AbortSignal;
}

/** How long to wait for a server. */
export interface WaitReadyOptions {
  /** Default 60 s: the first start of a model converts its weights. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

/**
 * A typed client of the HTTP interface. Every call throws a `ReadonceError` with the code of the
 * server's problem, or `engine_unavailable` when no server answers at that address.
 */
export interface ReadonceClient {
  /** Ingests a document, or finds it stored; resolves when it is ready. */
  put(request: PutRequest, options?: PutOptions): Promise<Context>;
  get(id: string): Promise<Context>;
  list(request?: ListRequest): Promise<ContextList>;
  patch(id: string, change: ContextChange): Promise<Context>;
  delete(id: string): Promise<void>;
  query(id: string, request: QueryRequest, signal?: AbortSignal): Promise<Answer>;
  /** Yields the answer as it grows. Leaving the loop early cancels the request. */
  stream(id: string, request: QueryRequest, signal?: AbortSignal): AsyncGenerator<AnswerEvent>;
  readonly sessions: SessionsClient;
  /** A context as a file; a transfer that breaks off makes the stream fail. */
  export(id: string, signal?: AbortSignal): Promise<ReadableStream<Uint8Array>>;
  /** Stores the context of an exported file, which is sent as it is read. */
  import(file: AsyncIterable<Uint8Array>, signal?: AbortSignal): Promise<Context>;
  /** Resolves when the server is ready to answer. @throws ReadonceError `deadline_exceeded` */
  waitReady(options?: WaitReadyOptions): Promise<void>;
}

/** Conversations that the server holds. `not_found` once one has ended. */
export interface SessionsClient {
  open(contextId: string, request?: SessionRequest): Promise<Session>;
  get(id: string): Promise<Session>;
  end(id: string): Promise<void>;
  query(id: string, request: SessionQueryRequest, signal?: AbortSignal): Promise<SessionAnswer>;
  /** As `ReadonceClient.stream`. */
  stream(
    id: string,
    request: SessionQueryRequest,
    signal?: AbortSignal,
  ): AsyncGenerator<AnswerEvent<SessionAnswer>>;
}

const readyPollMs = 100;

/** A client of the server at `baseUrl`. Holds nothing that needs closing. */
export function createClient(options: ClientOptions): ReadonceClient {
  const http = createTransport(options);
  const client: ReadonceClient = {
    put: (request, putOptions = {}) => put(http, request, putOptions),
    get: (id) => http.json('GET', contextPath(id)),
    list: (request = {}) => http.json('GET', `contexts${queryString(request)}`),
    patch: (id, change) => http.json('PATCH', contextPath(id), { body: change }),
    delete: async (id) => {
      await http.send('DELETE', contextPath(id));
    },
    query: (id, request, signal) =>
      http.json('POST', `${contextPath(id)}/query`, { body: request, signal }),
    stream: (id, request, signal) => stream(http, `${contextPath(id)}/query`, request, signal),
    sessions: sessionsClient(http),
    export: (id, signal) => exportContext(http, id, signal),
    import: (file, signal) =>
      http.json('POST', 'contexts/import', { file, ...(signal === undefined ? {} : { signal }) }),
    waitReady: (waitOptions = {}) => waitReady(http, waitOptions),
  };
  return client;
}

function sessionsClient(http: Transport): SessionsClient {
  const sessionPath = (id: string) => `sessions/${encodeURIComponent(id)}`;
  return {
    open: (contextId, request = {}) =>
      http.json('POST', `${contextPath(contextId)}/sessions`, { body: request }),
    get: (id) => http.json('GET', sessionPath(id)),
    end: async (id) => {
      await http.send('DELETE', sessionPath(id));
    },
    query: (id, request, signal) =>
      http.json('POST', `${sessionPath(id)}/query`, { body: request, signal }),
    stream: (id, request, signal) => stream(http, `${sessionPath(id)}/query`, request, signal),
  };
}

interface SendOptions {
  /** Sent as JSON. */
  readonly body?: unknown;
  /** Sent as it is. */
  readonly file?: AsyncIterable<Uint8Array>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
}

interface Transport {
  readonly baseUrl: string;
  /** Throws unless the status is 2xx. */
  send(method: string, path: string, options?: SendOptions): Promise<Response>;
  json<T>(method: string, path: string, options?: SendOptions): Promise<T>;
}

function createTransport(options: ClientOptions): Transport {
  const { baseUrl, apiKey, fetch = globalThis.fetch } = options;
  const key = apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` };
  const base = baseUrl.endsWith('/') ? baseUrl : `${baseUrl}/`;
  const send: Transport['send'] = async (method, path, options = {}) => {
    const { headers, signal } = options;
    const { type, ...content } = contentOf(options);
    const response = await fetch(new URL(path, base), {
      method,
      headers: { ...headers, ...key, ...(type === undefined ? {} : { 'content-type': type }) },
      ...content,
      ...(signal === undefined ? {} : { signal }),
    }).catch((error: unknown) => {
      throw connectionError(baseUrl, error, signal);
    });
    if (!response.ok) throw await problemError(response);
    return response;
  };
  return {
    baseUrl,
    send,
    json: async (method, path, options) => {
      const response = await send(method, path, options);
      const text = await response.text().catch((error: unknown) => {
        throw connectionError(baseUrl, error, options?.signal);
      });
      return JSON.parse(text);
    },
  };
}

/** What is sent, and its media type. A stream is sent while the answer may already come. */
function contentOf({ body, file }: SendOptions) {
  if (file !== undefined) {
    const stream = Readable.toWeb(Readable.from(file)) as ReadableStream<Uint8Array>;
    return { type: 'application/octet-stream', body: stream, duplex: 'half' } as const;
  }
  if (body === undefined) return {};
  return { type: 'application/json', body: JSON.stringify(body) };
}

async function exportContext(
  http: Transport,
  id: string,
  signal: AbortSignal | undefined,
): Promise<ReadableStream<Uint8Array>> {
  const path = `${contextPath(id)}/export`;
  const { body } = await http.send('GET', path, signal === undefined ? {} : { signal });
  return body ?? new ReadableStream();
}

async function put(http: Transport, request: PutRequest, options: PutOptions): Promise<Context> {
  const { onProgress, signal } = options;
  if (onProgress === undefined) return http.json('PUT', 'contexts', { body: request, signal });
  const context = await http.json<Context>('PUT', 'contexts', {
    body: request,
    headers: { prefer: 'respond-async' },
    signal,
  });
  if (context.status === 'ready') return context;
  const path = `${contextPath(context.id)}/events`;
  for await (const { event, data } of events(http, 'GET', path, { signal })) {
    if (event === 'progress') onProgress(JSON.parse(data));
    if (event === 'ready') return JSON.parse(data);
    if (event === 'failed') throw readProblem(data, 500);
  }
  throw brokenStream(http);
}

async function* stream<T extends Answer>(
  http: Transport,
  path: string,
  request: object,
  signal: AbortSignal | undefined,
): AsyncGenerator<AnswerEvent<T>> {
  const body = { ...request, stream: true };
  for await (const { event, data } of events(http, 'POST', path, { body, signal })) {
    if (event === 'token') {
      const token: { readonly text: string } = JSON.parse(data);
      yield { type: 'token', text: token.text };
    }
    if (event === 'done') {
      yield { type: 'done', answer: JSON.parse(data) };
      return;
    }
    if (event === 'error') throw readProblem(data, 500);
  }
  throw brokenStream(http);
}

/** The events of a response; leaving the loop ends the request. */
async function* events(
  http: Transport,
  method: string,
  path: string,
  options: SendOptions,
): AsyncGenerator<SseEvent> {
  const left = new AbortController();
  const signal =
    options.signal === undefined ? left.signal : AbortSignal.any([left.signal, options.signal]);
  const headers = { accept: 'text/event-stream' };
  try {
    const response = await http.send(method, path, { ...options, headers, signal });
    if (response.body !== null) yield* parseSse(response.body);
  } catch (error) {
    if (error instanceof ReadonceError || error === signal.reason) throw error;
    throw connectionError(http.baseUrl, error, signal);
  } finally {
    left.abort();
  }
}

async function waitReady(http: Transport, options: WaitReadyOptions): Promise<void> {
  const timeoutMs = options.timeoutMs ?? 60_000;
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    try {
      await http.send('GET', 'readyz', { signal: options.signal });
      return;
    } catch (error) {
      if (!(error instanceof ReadonceError) || error.code !== 'engine_unavailable') throw error;
      if (performance.now() > deadline) {
        const message = `Expected ${http.baseUrl} to be ready within ${timeoutMs} ms: ${error.message}`;
        throw new ReadonceError('deadline_exceeded', message, { cause: error });
      }
    }
    await sleep(
      readyPollMs,
      undefined,
      options.signal === undefined ? {} : { signal: options.signal },
    );
  }
}

function brokenStream(http: Transport): ReadonceError {
  return new ReadonceError(
    'engine_unavailable',
    `Expected ${http.baseUrl} to finish its events but the connection ended. Try again.`,
  );
}

function contextPath(id: string): string {
  return `contexts/${encodeURIComponent(id)}`;
}

function queryString(request: ListRequest): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(request)) parameters.set(name, String(value));
  return parameters.size === 0 ? '' : `?${parameters.toString()}`;
}
