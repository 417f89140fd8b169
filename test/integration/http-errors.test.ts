import { request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { defined } from '../../src/core/assert.ts';
import { errorTable, ReadonceError, type ErrorCode } from '../../src/core/errors.ts';
import { startTestServer, type TestServer } from '../support/test-server.ts';

interface ProblemBody {
  readonly code: ErrorCode;
  readonly detail: string;
  readonly requestId: string;
  readonly errors?: readonly { readonly path: string; readonly message: string }[];
}

let server: TestServer;
let id: string;

beforeAll(async () => {
  server = await startTestServer();
  const context = (await (await server.put({ document: 'text' })).json()) as { id: string };
  id = context.id;
});

afterAll(async () => {
  await server.close();
});

/** The problem, after checking what all problems have in common. */
async function problem(response: Response, code: ErrorCode): Promise<ProblemBody> {
  expect(response.headers.get('content-type')).toBe('application/problem+json');
  const body = (await response.json()) as ProblemBody;
  const { status, title } = errorTable[code];
  expect(body).toMatchObject({ code, status, title, type: `urn:readonce:error:${code}` });
  expect(response.status).toBe(status);
  expect(body.detail).not.toBe('');
  expect(body.requestId).toBe(response.headers.get('x-request-id'));
  expect(body).toHaveProperty('instance', new URL(response.url).pathname);
  return body;
}

function putRaw(
  contentType: string,
  body: string | Uint8Array<ArrayBuffer>,
  query = '',
): Promise<Response> {
  return server.request(`/contexts${query}`, {
    method: 'PUT',
    headers: { 'Content-Type': contentType },
    body,
  });
}

const document = 'text';

test.each<[string, unknown, string]>([
  ['no document', {}, 'document'],
  ['an empty document', { document: '' }, 'document'],
  ['a document of white space', { document: ' \n\t\u00a0' }, 'document'],
  ['a document of another type', { document: ['text'] }, 'document'],
  ['a NUL in the document', { document: 'a\0b' }, 'document'],
  ['a lone surrogate in the document', { document: 'a\ud800b' }, 'document'],
  ['a NUL in the instructions', { document, instructions: '\0' }, 'instructions'],
  ['an unknown field', { document, documents: 1 }, 'documents'],
  ['an unknown compression field', { document, compression: { ratio: 1 } }, 'compression.ratio'],
  ['keepRatio 0', { document, compression: { keepRatio: 0 } }, 'compression.keepRatio'],
  ['keepRatio 2', { document, compression: { keepRatio: 2 } }, 'compression.keepRatio'],
  ['keepRatio as text', { document, compression: { keepRatio: '0.3' } }, 'compression.keepRatio'],
  [
    'keepRatio below 1 with method none',
    { document, compression: { method: 'none', keepRatio: 0.5 } },
    'compression.keepRatio',
  ],
  ['an unknown method', { document, compression: { method: 'zip' } }, 'compression.method'],
  ['an unknown budget', { document, compression: { budget: 'big' } }, 'compression.budget'],
  ['an unknown precision', { document, compression: { precision: 'f8' } }, 'compression.precision'],
  ['ttlSeconds 0', { document, ttlSeconds: 0 }, 'ttlSeconds'],
  ['a fraction of a second', { document, ttlSeconds: 1.5 }, 'ttlSeconds'],
  ['ttlSeconds past ten years', { document, ttlSeconds: 315_360_001 }, 'ttlSeconds'],
  ['pinned as a number', { document, pinned: 1 }, 'pinned'],
  ['a label that is no text', { document, labels: { a: 1 } }, 'labels.a'],
  ['a label without a name', { document, labels: { '': 'a' } }, 'labels.'],
  ['a long label', { document, labels: { a: 'x'.repeat(257) } }, 'labels.a'],
  ['a NUL in a label', { document, labels: { a: '\0' } }, 'labels.a'],
  [
    '17 labels',
    { document, labels: Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`l${i}`, ''])) },
    'labels',
  ],
])('PUT refuses %s', async (_, body, path) => {
  const { detail, errors } = await problem(await server.put(body), 'invalid_argument');
  expect(errors?.map((error) => error.path)).toContain(path);
  expect(detail).toMatch(/^Expected .+ but got /);
});

test('several wrong fields are all listed', async () => {
  const response = await server.put({ document: 1, pinned: 2, ttlSeconds: 'x', foo: 1 });
  const { errors, detail } = await problem(response, 'invalid_argument');
  expect(errors?.map(({ path }) => path)).toEqual(['document', 'ttlSeconds', 'pinned', 'foo']);
  expect(detail).toContain('And 1 more');
});

test('an unknown method, budget or precision lists the known ones', async () => {
  const refuse = async (compression: object) =>
    (await problem(await server.put({ document, compression }), 'invalid_argument')).detail;
  expect(await refuse({ method: 'zip' })).toContain('"kvzip", "none"');
  expect(await refuse({ budget: 'zip' })).toContain('"global", "uniform"');
  expect(await refuse({ precision: 'zip' })).toContain('"f16"');
});

test.each([{ precision: 'int4' }, { keepRatio: 'auto' }, { method: 'snapkv' }, { budget: 'head' }])(
  'what the contract names but is not built is unsupported: %o',
  async (compression) => {
    await problem(await server.put({ document, compression }), 'unsupported');
    const query = new URLSearchParams(compression as Record<string, string>);
    await problem(await putRaw('text/plain', document, `?${query.toString()}`), 'unsupported');
  },
);

test.each<[string, string]>([
  ['cut off', '{"document": "te'],
  ['empty', ''],
  ['no JSON', 'text'],
  ['an array', '[]'],
  ['null', 'null'],
])('a JSON body that is %s is refused', async (_, body) => {
  await problem(await putRaw('application/json', body), 'invalid_argument');
});

test('invalid UTF-8 is refused in JSON and in text', async () => {
  const json = Buffer.concat([
    Buffer.from('{"document":"'),
    Buffer.from([0xff]),
    Buffer.from('"}'),
  ]);
  await problem(await putRaw('application/json', json), 'invalid_argument');
  await problem(await putRaw('text/plain', Buffer.from([0x61, 0xc3])), 'invalid_argument');
  const query = '?instructions=%FF';
  await problem(await putRaw('text/plain', document, query), 'invalid_argument');
});

test('a lone surrogate written as an escape is refused', async () => {
  const body = '{"document":"a\\ud800"}';
  await problem(await putRaw('application/json', body), 'invalid_argument');
});

test.each([
  ['an unknown parameter', '?foo=1'],
  ['labels, which need JSON', '?labels=a'],
  ['keepRatio 0', '?keepRatio=0'],
  ['keepRatio in another notation', '?keepRatio=1e-1'],
  ['a parameter twice', '?pinned=true&pinned=true'],
  ['pinned=1', '?pinned=1'],
  ['ttlSeconds=-1', '?ttlSeconds=-1'],
  ['a NUL in the instructions', '?instructions=%00'],
  ['an unknown method', '?method=zip'],
])('a text PUT refuses %s', async (_, query) => {
  await problem(await putRaw('text/plain', document, query), 'invalid_argument');
});

test('a text PUT refuses an empty document and one with a NUL', async () => {
  await problem(await putRaw('text/plain', ' \n'), 'invalid_argument');
  await problem(await putRaw('text/plain', ''), 'invalid_argument');
  await problem(await putRaw('text/plain', 'a\0'), 'invalid_argument');
});

test('a JSON PUT refuses options in the query string', async () => {
  const response = await putRaw('application/json', '{"document":"text"}', '?pinned=true');
  expect((await problem(response, 'invalid_argument')).errors?.[0]?.path).toBe('pinned');
});

test.each(['text/html', 'application/x-www-form-urlencoded', 'text/plain; charset=latin1'])(
  'a body of type %s is refused',
  async (type) => {
    const { detail } = await problem(await putRaw(type, document), 'unsupported_media_type');
    expect(detail).toContain('application/json, text/plain, text/markdown');
  },
);

test('a body without a type, or compressed, is refused', async () => {
  const bytes = Buffer.from('{"document":"text"}');
  const untyped = await server.request('/contexts', { method: 'PUT', body: bytes });
  await problem(untyped, 'unsupported_media_type');
  const compressed = await server.put({ document }, { 'Content-Encoding': 'gzip' });
  await problem(compressed, 'unsupported_media_type');
  const query = await server.request(`/contexts/${id}/query`, {
    method: 'POST',
    headers: { 'Content-Type': 'text/plain' },
    body: 'q',
  });
  await problem(query, 'unsupported_media_type');
});

test('a body over the limit is refused by its declared length', async () => {
  const response = await putRaw('text/plain', 'a'.repeat(11 * 2 ** 20));
  const { detail } = await problem(response, 'payload_too_large');
  expect(detail).toContain('10485760');
});

test('a body over the limit is refused while it arrives, without a declared length', async () => {
  const piece = new TextEncoder().encode('a'.repeat(2 ** 20));
  let pieces = 0;
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      if (pieces++ < 11) controller.enqueue(piece);
      else controller.close();
    },
  });
  const init: RequestInit = {
    method: 'PUT',
    headers: { 'Content-Type': 'text/plain' },
    body,
    duplex: 'half',
  };
  await problem(await server.request('/contexts', init), 'payload_too_large');
});

test('9 MB of one letter get through to the engine, which refuses them', async () => {
  const text = 'a'.repeat(9_000_000);
  await problem(await putRaw('text/plain', text), 'context_too_long');
  await problem(await server.put({ document: text }), 'context_too_long');
});

test.each<[string, Record<string, unknown>, string]>([
  ['no query', {}, 'query'],
  ['a query of white space', { query: ' ' }, 'query'],
  ['a NUL in the query', { query: 'a\0' }, 'query'],
  ['a lone surrogate in the query', { query: '\udfff' }, 'query'],
  ['maxTokens 0', { query: 'q', maxTokens: 0 }, 'maxTokens'],
  ['a fractional maxTokens', { query: 'q', maxTokens: 1.5 }, 'maxTokens'],
  ['a negative temperature', { query: 'q', temperature: -1 }, 'temperature'],
  ['temperature above 2', { query: 'q', temperature: 2.1 }, 'temperature'],
  ['topP 0', { query: 'q', topP: 0 }, 'topP'],
  ['topP above 1', { query: 'q', topP: 1.1 }, 'topP'],
  ['a negative topK', { query: 'q', topK: -1 }, 'topK'],
  ['a negative seed', { query: 'q', seed: -1 }, 'seed'],
  ['stop as text', { query: 'q', stop: 'x' }, 'stop'],
  ['an empty stop', { query: 'q', stop: [''] }, 'stop.0'],
  ['a NUL in a stop', { query: 'q', stop: ['a', '\0'] }, 'stop.1'],
  ['17 stops', { query: 'q', stop: Array.from({ length: 17 }, () => 'x') }, 'stop'],
  ['keepRatio 0', { query: 'q', keepRatio: 0 }, 'keepRatio'],
  ['stream as text', { query: 'q', stream: 'true' }, 'stream'],
  ['an unknown field', { query: 'q', max_tokens: 3 }, 'max_tokens'],
])('a query refuses %s', async (_, body, path) => {
  const { errors } = await problem(await server.query(id, body), 'invalid_argument');
  expect(errors?.map((error) => error.path)).toContain(path);
});

test('a keepRatio above the stored one is refused, naming both', async () => {
  const response = await server.query(id, { query: 'q', keepRatio: 0.4 });
  const { detail } = await problem(response, 'invalid_argument');
  expect(detail).toContain('0.3');
  expect(detail).toContain('0.4');
});

test.each(['?limit=0', '?limit=101', '?limit=x', '?limit=', '?label=x', '?label=:x', '?foo=1'])(
  'a list refuses %s',
  async (query) => {
    await problem(await server.request(`/contexts${query}`), 'invalid_argument');
  },
);

test.each(['ctx_0000000000000000000000000000000000000000', 'ctx_x', 'x', '%FF', '..%2f'])(
  'the id %s is not found, whatever is asked of it',
  async (unknown) => {
    const path = `/contexts/${unknown}`;
    const send = (suffix: string, method: string, body?: object) =>
      server.request(path + suffix, {
        method,
        ...(body === undefined
          ? {}
          : { headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) }),
      });
    await problem(await send('', 'GET'), 'not_found');
    await problem(await send('', 'DELETE'), 'not_found');
    await problem(await send('', 'PATCH', {}), 'not_found');
    await problem(await send('/query', 'POST', { query: 'q' }), 'not_found');
    await problem(await send('/events', 'GET'), 'not_found');
    await problem(await send('/importance', 'GET'), 'not_found');
  },
);

test('an unknown path is not found', async () => {
  await problem(await server.request('/v2/contexts'), 'not_found');
  await problem(await server.request('/contexts/'), 'not_found');
});

test('a wrong method on a known path is refused with those allowed', async () => {
  const post = await server.request('/contexts', { method: 'POST' });
  await problem(post, 'method_not_allowed');
  expect(post.headers.get('allow')?.split(', ').sort()).toEqual(['GET', 'HEAD', 'PUT']);
  const get = await server.request(`/contexts/${id}/query`);
  await problem(get, 'method_not_allowed');
  expect(get.headers.get('allow')).toBe('POST');
});

test('a corrupt record is reported as such, and its context is gone then', async () => {
  const { contexts, corrupt } = server.store;
  const stored = defined(contexts.get(id), 'the context');
  corrupt.add(id);
  await problem(await server.request(`/contexts/${id}`), 'corrupt_record');
  await problem(await server.request(`/contexts/${id}`), 'not_found');
  contexts.set(id, stored);
});

test('an error of the engine keeps its code and its Retry-After', async () => {
  server.engine.queryFailure = new ReadonceError('overloaded', 'Expected a shorter queue.', {
    retryAfterSeconds: 1.2,
  });
  const response = await server.query(id, { query: 'q' });
  server.engine.queryFailure = undefined;
  await problem(response, 'overloaded');
  expect(response.headers.get('retry-after')).toBe('2');
});

test('a defect is reported without its internals, and logged with them', async () => {
  const failing = new Error('secret internals');
  server.engine.lateQueryFailure = failing;
  const response = await server.query(id, { query: 'q' });
  server.engine.lateQueryFailure = undefined;
  const { detail, requestId } = await problem(response, 'internal');
  expect(detail).not.toContain('secret');
  const line = server.logLines.find((text) => text.includes('secret internals'));
  expect(line).toContain(requestId);
});

test('a request id of the client is kept if it is well-formed, and replaced if not', async () => {
  const withId = (value: string) =>
    server.request('/healthz', { headers: { 'X-Request-Id': value } });
  expect((await withId('abc-123')).headers.get('x-request-id')).toBe('abc-123');
  expect((await withId('a b"')).headers.get('x-request-id')).toMatch(/^req_[0-9a-f]{32}$/);
});

test('bytes that are no HTTP, and headers that are too long, get a problem', async () => {
  const answer = await new Promise<string>((resolve, reject) => {
    const socket = connect(server.http.port, '127.0.0.1', () => socket.write('nonsense\r\n\r\n'));
    let text = '';
    socket.on('data', (chunk) => (text += chunk.toString()));
    socket.on('end', () => resolve(text));
    socket.on('error', reject);
  });
  expect(answer).toMatch(/^HTTP\/1\.1 400 /);
  expect(answer).toContain('"code":"invalid_argument"');
  const requestId = /^X-Request-Id: (req_[0-9a-f]{32})\r$/m.exec(answer)?.[1];
  expect(answer).toContain(`"requestId":"${requestId}"`);
  const long = await server.request(`/contexts?cursor=${'x'.repeat(20_000)}`);
  expect(long.status).toBe(400);
  expect(await long.json()).toMatchObject({ code: 'invalid_argument' });
});

test('a Host header that is no host gets a problem', async () => {
  const status = await new Promise<{ status: number | undefined; text: string; id: unknown }>(
    (resolve, reject) => {
      const sent = httpRequest(
        { port: server.http.port, path: '/healthz', headers: { Host: 'a b' } },
        (response) => {
          let text = '';
          response.on('data', (chunk: Buffer) => (text += chunk.toString()));
          response.on('end', () =>
            resolve({ status: response.statusCode, text, id: response.headers['x-request-id'] }),
          );
        },
      );
      sent.on('error', reject);
      sent.end();
    },
  );
  expect(status.status).toBe(400);
  expect(JSON.parse(status.text)).toMatchObject({ code: 'invalid_argument', requestId: status.id });
  expect(status.id).toMatch(/^req_/);
});

test('no text of a client is logged', () => {
  expect(server.logLines.join('')).not.toContain('"document"');
  expect(server.logLines.join('')).not.toContain('instructions');
});
