import { request as httpRequest } from 'node:http';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { defined } from '../../src/core/assert.ts';
import { Gate } from '../support/fake-engine.ts';
import { forgeFile, portableSample } from '../support/portable-samples.ts';
import { readEvents, startTestServer, until, type TestServer } from '../support/test-server.ts';
import { startTransferServer } from '../support/transfer-server.ts';

/** Long enough for a request to reach the gate that holds it up, short enough to wait for. */
const soon = { 'X-Request-Timeout-Ms': '600' };
/** Never reached. */
const later = { 'X-Request-Timeout-Ms': '3600000' };
const json = { 'Content-Type': 'application/json' };

let server: TestServer;

beforeEach(async () => {
  server = await startTestServer();
});
afterEach(() => server.close());

async function putReady(): Promise<string> {
  const response = await server.put({ document: 'text' });
  return ((await response.json()) as { id: string }).id;
}

function query(id: string, body: object, headers: Readonly<Record<string, string>>) {
  return server.request(`/contexts/${id}/query`, {
    method: 'POST',
    headers: { ...json, ...headers },
    body: JSON.stringify(body),
  });
}

async function expectLate(response: Response): Promise<string> {
  expect(response.status).toBe(504);
  expect(response.headers.get('content-type')).toBe('application/problem+json');
  expect(response.headers.get('x-request-id')).toMatch(/^req_/);
  expect(response.headers.get('x-content-type-options')).toBe('nosniff');
  const problem = (await response.json()) as { code: string; detail: string };
  expect(problem.code).toBe('deadline_exceeded');
  expect(problem.detail).toContain('600 ms');
  return problem.detail;
}

test.each(['0', '-1', '1.5', '3600001', '1e3', '0x10', 'soon', '', '99999999', '1, 2'])(
  'the deadline %o is refused, whatever is asked',
  async (timeout) => {
    for (const path of ['/contexts', '/methods', '/no-such-path']) {
      const response = await server.request(path, { headers: { 'X-Request-Timeout-Ms': timeout } });
      expect(response.status).toBe(400);
      expect(await response.json()).toMatchObject({
        code: 'invalid_argument',
        errors: [{ path: 'X-Request-Timeout-Ms' }],
      });
    }
  },
);

test.each([false, true])(
  'a query that is not answered in time stops (stream: %s)',
  async (stream) => {
    const id = await putReady();
    server.engine.queryGate = new Gate();
    await expectLate(await query(id, { query: 'abc', stream }, soon));
    expect(server.engine.aborted).toBe(1);
    server.engine.queryGate = undefined;
    expect((await query(id, { query: 'abc', stream }, later)).status).toBe(200);
  },
);

test('an answer is late even if the engine never hears that it was given up', async () => {
  const id = await putReady();
  const gate = new Gate();
  const answer = server.engine.query.bind(server.engine);
  server.engine.query = async (request, onText) => {
    await gate.opened;
    return answer(request, onText);
  };
  await expectLate(await query(id, { query: 'abc' }, soon));
  gate.open();
});

test('a stream that has begun ends with an error event when its time is up', async () => {
  const id = await putReady();
  server.engine.textGate = new Gate();
  const response = await query(id, { query: 'abc', stream: true }, soon);
  expect(response.status).toBe(200);
  const events: { readonly event: string; readonly data: object }[] = [];
  for await (const event of readEvents(response)) events.push(event);
  expect(events.map(({ event }) => event)).toEqual(['token', 'error']);
  expect(events[1]?.data).toMatchObject({ code: 'deadline_exceeded', status: 504 });
  expect(server.engine.aborted).toBe(1);
});

test('a PUT whose time is up says that the ingestion goes on, and it does', async () => {
  server.engine.ingestGate = new Gate();
  const put = () => server.put({ document: 'text' }, soon);
  const details = await Promise.all([put().then(expectLate), put().then(expectLate)]);
  const [id] = /ctx_[0-9a-f]{40}/.exec(details[0] ?? '') ?? [];
  for (const detail of details) expect(detail).toContain(`still being ingested as ${id}`);
  expect(server.engine.aborted).toBe(0);
  server.engine.ingestGate.open();
  await until(() => server.store.contexts.has(id ?? ''));
  expect((await server.put({ document: 'text' }, later)).status).toBe(200);
  expect(server.engine.ingests).toBe(1);
});

test('a PUT whose time is up before its document has an id begins nothing', async () => {
  const gate = new Gate();
  const identify = server.engine.identify.bind(server.engine);
  server.engine.identify = async (request) => {
    await gate.opened;
    return identify(request);
  };
  const detail = await expectLate(await server.put({ document: 'text' }, soon));
  expect(detail).not.toContain('ingested');
  gate.open();
  await until(() => server.engine.identifies === 1);
  await new Promise(setImmediate);
  expect(server.engine.ingests).toBe(0);
});

test('a body that does not arrive in time changes nothing', async () => {
  const id = await putReady();
  const status = await new Promise<number | undefined>((resolve, reject) => {
    const patch = httpRequest(
      `${server.http.url}/contexts/${id}`,
      { method: 'PATCH', headers: { ...json, ...soon, 'Content-Length': 16 } },
      (response) => {
        resolve(response.statusCode);
        response.resume();
        patch.end('"pinned": true}');
      },
    );
    patch.on('error', reject);
    patch.write('{');
  });
  expect(status).toBe(504);
  await until(() => server.logLines.some((line) => line.includes('"status":504')));
  expect(server.store.contexts.get(id)?.usage.pinned).toBe(false);
});

test('the events of an ingestion end with an error event when the time is up', async () => {
  server.engine.ingestGate = new Gate();
  const put = await server.put({ document: 'text' }, { Prefer: 'respond-async' });
  const { id } = (await put.json()) as { id: string };
  const response = await server.request(`/contexts/${id}/events`, { headers: soon });
  const events: string[] = [];
  for await (const { event } of readEvents(response)) events.push(event);
  expect(events).toEqual(['progress', 'error']);
  expect(server.engine.aborted).toBe(0);
  server.engine.ingestGate.open();
});

test('an import that is not there in time is given up, and leaves nothing', async () => {
  const sample = portableSample({ seed: 5, kept: [5, 0, 1, 0] });
  const file = forgeFile(sample);
  const { url, store } = await startTransferServer(sample);
  const body = new ReadableStream<Uint8Array>({
    start: (controller) => controller.enqueue(file.subarray(0, file.byteLength - 40)),
  });
  const init: RequestInit = {
    method: 'POST',
    headers: { 'Content-Type': 'application/octet-stream', ...soon },
    body,
    duplex: 'half',
  };
  await expectLate(await fetch(`${url}/contexts/import`, init));
  expect(store.get(sample.record.id)).toBeUndefined();
});

test('an export that is not taken in time breaks off', async () => {
  const large = portableSample({ seed: 6, kept: [4096], rowBytes: 512, prefixTokens: 0 });
  const { url, store, logLines } = await startTransferServer(large);
  await store.write(large);
  const headers = { 'X-Request-Timeout-Ms': '1000' };
  const response = await fetch(`${url}/contexts/${large.record.id}/export`, { headers });
  const reader = defined(response.body, 'the body').getReader();
  await reader.read();
  await until(() => logLines.some((line) => line.includes('export broke off')));
  const rest = async () => {
    while (!(await reader.read()).done);
  };
  await expect(rest()).rejects.toThrow();
});

test('no timer is left when a request is over, however it ended', async () => {
  const set = vi.spyOn(globalThis, 'setTimeout');
  const cleared = vi.spyOn(globalThis, 'clearTimeout');
  const id = await putReady();
  const answered = await Promise.all([
    query(id, { query: 'abc' }, later),
    query(id, { query: 'abc', stream: true }, later),
    query(id, { query: '' }, later),
    server.request(`/contexts/${id}/events`, { headers: later }),
    server.request(`/contexts/${id}/events`, { headers: later, method: 'HEAD' }),
    server.request('/contexts/x/export', { headers: later, method: 'HEAD' }),
    server.request('/no-such-path', { headers: later }),
  ]);
  for (const response of answered) await response.text();
  const leaving = new AbortController();
  server.engine.textGate = new Gate();
  const left = await server.request(`/contexts/${id}/query`, {
    method: 'POST',
    headers: { ...json, ...later },
    body: JSON.stringify({ query: 'abc', stream: true }),
    signal: leaving.signal,
  });
  leaving.abort();
  await expect(left.text()).rejects.toThrow();
  const timers = () =>
    set.mock.results
      .filter((_, i) => set.mock.calls[i]?.[1] === 3_600_000)
      .map(({ value }) => value);
  expect(timers()).toHaveLength(8);
  const open = () => {
    const done = new Set<unknown>(cleared.mock.calls.map(([timer]) => timer));
    return timers().filter((timer) => !done.has(timer));
  };
  await until(() => open().length === 0);
  vi.restoreAllMocks();
});

test('a client that leaves is no defect of ours', async () => {
  const id = await putReady();
  server.engine.ingestGate = new Gate();
  const leaving = new AbortController();
  const put = server.request('/contexts', {
    method: 'PUT',
    headers: json,
    body: JSON.stringify({ document: 'other' }),
    signal: leaving.signal,
  });
  await until(() => server.engine.ingests === 2);
  leaving.abort();
  await expect(put).rejects.toThrow();
  await until(() => server.logLines.filter((line) => line.includes('"method":"PUT"')).length === 2);
  expect(server.logLines.join('')).not.toContain('request failed');
  expect(server.engine.aborted).toBe(0);
  server.engine.ingestGate.open();
  await until(() => server.store.contexts.size === 2);
  expect(server.store.contexts.has(id)).toBe(true);
});

test('what is thrown and is no error is answered like a defect', async () => {
  server.engine.identify = async () => {
    // As the HTTP adapter does it.
    // oxlint-disable-next-line typescript/only-throw-error
    throw 'a text';
  };
  const response = await server.put({ document: 'text' });
  expect(response.status).toBe(500);
  expect(await response.json()).toMatchObject({ code: 'internal' });
});
