import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createClient, type ReadonceClient } from '../../src/client/client.ts';
import type { AnswerEvent, Progress } from '../../src/client/types.ts';

type Handler = (request: IncomingMessage, response: ServerResponse, body: string) => void;

let handler: Handler;
let client: ReadonceClient;
let baseUrl: string;
const server = createServer((request, response) => {
  const chunks: Buffer[] = [];
  request.on('data', (chunk: Buffer) => chunks.push(chunk));
  request.on('end', () => handler(request, response, Buffer.concat(chunks).toString('utf8')));
});

beforeAll(async () => {
  await new Promise<void>((done) => {
    server.listen(0, '127.0.0.1', done);
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('Expected a TCP address.');
  baseUrl = `http://127.0.0.1:${address.port}`;
  client = createClient({ baseUrl });
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
});
beforeEach(() => {
  handler = (_, response) => response.end('{}');
});

function problem(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { 'content-type': 'application/problem+json', 'retry-after': '3' });
  response.end(JSON.stringify(body));
}

function sse(response: ServerResponse, events: readonly [string, unknown][]): void {
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  for (const [event, data] of events) {
    response.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
  }
  response.end();
}

async function collect(events: AsyncIterable<AnswerEvent>): Promise<AnswerEvent[]> {
  const all: AnswerEvent[] = [];
  for await (const event of events) all.push(event);
  return all;
}

describe('requests', () => {
  it('have the key, if there is one, whatever is sent', async () => {
    const seen = new Set<string | undefined>();
    handler = ({ headers }, response) => {
      seen.add(headers.authorization);
      response.end('{"id":"x","status":"ready"}');
    };
    const keyed = createClient({ baseUrl, apiKey: 'key-0123456789abcd' });
    await keyed.put({ document: 'd' }, { onProgress: () => undefined });
    await keyed.delete('x');
    await keyed.import(Readable.from([Buffer.from('file')]));
    await keyed.waitReady();
    await expect(collect(keyed.stream('x', { query: 'q' }))).rejects.toThrow('events');
    expect([...seen]).toEqual(['Bearer key-0123456789abcd']);
    seen.clear();
    await client.get('x');
    expect([...seen]).toEqual([undefined]);
  });

  it('sends each call to its route', async () => {
    const seen: string[] = [];
    handler = (request, response, body) => {
      seen.push(`${request.method} ${request.url} ${body}`);
      response.end('{"id":"x","status":"ready"}');
    };
    await client.put({ document: 'd', compression: { keepRatio: 0.5 } });
    await client.get('ctx_1');
    await client.list();
    await client.list({ limit: 2, label: 'a:b c' });
    await client.patch('ctx_1', { pinned: true });
    await client.delete('ctx_1');
    await client.query('a/b', { query: 'q' });
    await client.query('ctx_1', { messages: [{ role: 'user', content: 'q' }], keepRatio: 0.2 });
    await client.sessions.open('ctx_1');
    await client.sessions.open('ctx_1', { ttlSeconds: 60 });
    await client.sessions.get('ses_1');
    await client.sessions.query('ses_1', { query: 'q', maxTokens: 3 });
    await client.sessions.end('a/b');
    expect(seen).toEqual([
      'PUT /contexts {"document":"d","compression":{"keepRatio":0.5}}',
      'GET /contexts/ctx_1 ',
      'GET /contexts ',
      'GET /contexts?limit=2&label=a%3Ab+c ',
      'PATCH /contexts/ctx_1 {"pinned":true}',
      'DELETE /contexts/ctx_1 ',
      'POST /contexts/a%2Fb/query {"query":"q"}',
      'POST /contexts/ctx_1/query {"messages":[{"role":"user","content":"q"}],"keepRatio":0.2}',
      'POST /contexts/ctx_1/sessions {}',
      'POST /contexts/ctx_1/sessions {"ttlSeconds":60}',
      'GET /sessions/ses_1 ',
      'POST /sessions/ses_1/query {"query":"q","maxTokens":3}',
      'DELETE /sessions/a%2Fb ',
    ]);
  });

  it('keeps a path in the base address', async () => {
    handler = (request, response) => response.end(JSON.stringify({ id: request.url }));
    const behindProxy = createClient({ baseUrl: `${baseUrl}/readonce` });
    expect((await behindProxy.get('c')).id).toBe('/readonce/contexts/c');
  });
});

describe('errors', () => {
  it('become ReadonceErrors with the code, the detail and Retry-After of the problem', async () => {
    handler = (_, response) =>
      problem(response, 503, { code: 'overloaded', detail: 'Too busy.', requestId: 'req_1' });
    await expect(client.get('c')).rejects.toMatchObject({
      name: 'ReadonceError',
      code: 'overloaded',
      message: 'Too busy.',
      retryAfterSeconds: 3,
      details: { requestId: 'req_1' },
    });
  });

  it.each(['<html>Bad gateway</html>', '{"code":"no_such_code"}', '[]', ''])(
    'are internal and name the status when the body is %j',
    async (body) => {
      handler = (_, response) => response.writeHead(502).end(body);
      await expect(client.get('c')).rejects.toMatchObject({
        code: 'internal',
        message: expect.stringContaining('502'),
      });
    },
  );

  it('say how to start a server when none answers', async () => {
    // Port 9 (discard) is never a readonce server.
    const lost = createClient({ baseUrl: 'http://127.0.0.1:9' });
    await expect(lost.get('c')).rejects.toMatchObject({
      code: 'engine_unavailable',
      message: expect.stringContaining('readonce serve'),
    });
  });

  it('leave an abort by the caller as it is', async () => {
    handler = () => {};
    const query = client.query('c', { query: 'q' }, AbortSignal.abort());
    await expect(query).rejects.toMatchObject({ name: 'AbortError' });
    const silent = createClient({
      baseUrl: 'http://127.0.0.1:9',
      fetch: (_url, { signal } = {}) =>
        new Promise((_, reject) => {
          signal?.addEventListener('abort', () => reject(signal.reason as Error));
        }),
    });
    const late = silent.query('c', { query: 'q' }, AbortSignal.timeout(1));
    await expect(late).rejects.toMatchObject({ name: 'TimeoutError' });
    const reason = new Error('no longer wanted');
    const leaving = new AbortController();
    const event = silent.stream('c', { query: 'q' }, leaving.signal).next();
    leaving.abort(reason);
    await expect(event).rejects.toBe(reason);
  });
});

describe('stream', () => {
  it('yields the tokens and then the answer', async () => {
    handler = (_, response, body) => {
      expect(JSON.parse(body)).toEqual({ query: 'q', stream: true });
      sse(response, [
        ['token', { text: 'a' }],
        ['token', { text: 'b\n' }],
        ['done', { answer: 'ab' }],
      ]);
    };
    expect(await collect(client.stream('c', { query: 'q' }))).toEqual([
      { type: 'token', text: 'a' },
      { type: 'token', text: 'b\n' },
      { type: 'done', answer: { answer: 'ab' } },
    ]);
  });

  it("yields a session's answer alike", async () => {
    handler = (request, response, body) => {
      expect([request.url, JSON.parse(body)]).toEqual([
        '/sessions/ses_1/query',
        { query: 'q', stream: true },
      ]);
      sse(response, [['done', { answer: 'a', sessionId: 'ses_1' }]]);
    };
    expect(await collect(client.sessions.stream('ses_1', { query: 'q' }))).toEqual([
      { type: 'done', answer: { answer: 'a', sessionId: 'ses_1' } },
    ]);
  });

  it('throws the problem of an error event', async () => {
    handler = (_, response) => sse(response, [['error', { code: 'gone', detail: 'Expired.' }]]);
    await expect(collect(client.stream('c', { query: 'q' }))).rejects.toMatchObject({
      code: 'gone',
    });
  });

  it('throws when the stream ends before the answer', async () => {
    handler = (_, response) => sse(response, [['token', { text: 'a' }]]);
    await expect(collect(client.stream('c', { query: 'q' }))).rejects.toMatchObject({
      code: 'engine_unavailable',
    });
  });

  it('throws when the server dies in the middle', async () => {
    handler = (_, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write('event: token\ndata: {"text":"a"}\n\n', () => response.destroy());
    };
    await expect(collect(client.stream('c', { query: 'q' }))).rejects.toMatchObject({
      code: 'engine_unavailable',
    });
  });

  it('ends the request when the loop is left early', async () => {
    const closed = new Promise<void>((done) => {
      handler = (_, response) => {
        response.on('close', done);
        response.writeHead(200, { 'content-type': 'text/event-stream' });
        response.write('event: token\ndata: {"text":"a"}\n\n');
      };
    });
    for await (const event of client.stream('c', { query: 'q' })) {
      expect(event).toEqual({ type: 'token', text: 'a' });
      break;
    }
    await closed;
  });
});

describe('put with progress', () => {
  it('asks for an asynchronous answer and follows the events until ready', async () => {
    const prefer: unknown[] = [];
    handler = (request, response) => {
      if (request.method === 'PUT') {
        prefer.push(request.headers['prefer']);
        response.writeHead(202).end('{"id":"ctx_1","status":"ingesting"}');
        return;
      }
      expect(request.url).toBe('/contexts/ctx_1/events');
      sse(response, [
        ['progress', { phase: 'prefill', done: 1, total: 2 }],
        ['ready', { id: 'ctx_1', status: 'ready' }],
      ]);
    };
    const seen: Progress[] = [];
    const context = await client.put({ document: 'd' }, { onProgress: (p) => seen.push(p) });
    expect(context).toEqual({ id: 'ctx_1', status: 'ready' });
    expect(seen).toEqual([{ phase: 'prefill', done: 1, total: 2 }]);
    expect(prefer).toEqual(['respond-async']);
  });

  it('throws the problem of a failed ingestion', async () => {
    handler = (request, response) => {
      if (request.method === 'PUT') response.writeHead(202).end('{"status":"ingesting","id":"c"}');
      else sse(response, [['failed', { code: 'storage_full', detail: 'Full.' }]]);
    };
    const put = client.put({ document: 'd' }, { onProgress: () => {} });
    await expect(put).rejects.toMatchObject({ code: 'storage_full', message: 'Full.' });
  });
});

describe('waitReady', () => {
  it('asks until the server is ready', async () => {
    let asked = 0;
    handler = (_, response) => {
      asked++;
      if (asked < 3) problem(response, 503, { code: 'engine_unavailable', detail: 'Starting.' });
      else response.end('{"status":"ready"}');
    };
    await client.waitReady();
    expect(asked).toBe(3);
  });

  it('gives up after its time, saying why', async () => {
    handler = (_, response) =>
      problem(response, 503, { code: 'engine_unavailable', detail: 'Starting.' });
    await expect(client.waitReady({ timeoutMs: 1 })).rejects.toMatchObject({
      code: 'deadline_exceeded',
      message: expect.stringContaining('Starting.'),
    });
  });
});
