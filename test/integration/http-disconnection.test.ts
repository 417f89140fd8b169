import { request as httpRequest } from 'node:http';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { createApp } from '../../src/http/app.ts';
import type { App } from '../../src/http/app-env.ts';
import { defaultHttpLimits } from '../../src/http/limits.ts';
import { Gate } from '../support/fake-engine.ts';
import { startTestServer, until, type TestServer } from '../support/test-server.ts';

/* The HTTP adapter aborts the signal of a request whose client has gone with a text as reason. */
const reason = 'Client connection prematurely closed.';

let server: TestServer;
let app: App;
let id: string;

beforeEach(async () => {
  server = await startTestServer();
  app = createApp({ ...server, apiKeys: [], limits: defaultHttpLimits });
  id = ((await (await server.put({ document: 'text' })).json()) as { id: string }).id;
});
afterEach(async () => {
  await server.close();
});

function ask(path: string, body: object, signal: AbortSignal): Promise<Response> {
  const request = new Request(`http://localhost${path}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
    signal,
  });
  return Promise.resolve(app.fetch(request));
}

const failures = () => server.logLines.filter((line) => !line.includes('"level":30'));
const statuses = () =>
  server.logLines.map((line) => (JSON.parse(line) as { status?: number }).status);

test.each([false, true])(
  'who has gone before the engine is asked gets no problem (stream: %s)',
  async (stream) => {
    const session = (await (await server.post(`/contexts/${id}/sessions`, {})).json()) as {
      id: string;
    };
    const chat = { model: 'fake', messages: [{ role: 'user', content: 'q' }], stream };
    for (const [path, body] of [
      [`/contexts/${id}/query`, { query: 'q', stream }],
      [`/sessions/${session.id}/query`, { query: 'q', stream }],
      ['/v1/chat/completions', chat],
    ] as const) {
      // The signal of a request is aborted a little after the handler began.
      const gone = new AbortController();
      const throwing = vi.spyOn(server.engine, 'query').mockImplementationOnce(() => {
        gone.abort(reason);
        return Promise.reject(reason);
      });
      const response = await ask(path, body, gone.signal);
      expect(response.status).toBe(499);
      expect(await response.text()).toBe('');
      throwing.mockRestore();
    }
    expect(statuses().slice(-3)).toEqual([499, 499, 499]);
    expect(failures()).toEqual([]);
  },
);

test('who goes away in the middle of a stream gets no error event', async () => {
  const gone = new AbortController();
  const gate = new Gate();
  vi.spyOn(server.engine, 'query').mockImplementationOnce(async (_, onText) => {
    onText('a');
    await gate.pass(undefined);
    gone.abort(reason);
    throw reason;
  });
  const response = await ask(`/contexts/${id}/query`, { query: 'q', stream: true }, gone.signal);
  gate.open();
  expect(await response.text()).toBe('event: token\ndata: {"text":"a"}\n\n');
  expect(failures()).toEqual([]);
});

test('what is thrown and is no Error is a defect like others, if the client is there', async () => {
  vi.spyOn(server.engine, 'query').mockImplementationOnce(async () => {
    throw reason;
  });
  const response = await ask(`/contexts/${id}/query`, { query: 'q' }, new AbortController().signal);
  expect(response.status).toBe(500);
  expect(await response.json()).toMatchObject({ code: 'internal' });
  expect(failures()).toHaveLength(1);
  expect(failures()[0]).toContain(reason);
});

test('a defect is not hidden by a client that has gone', async () => {
  const gone = new AbortController();
  vi.spyOn(server.engine, 'query').mockImplementationOnce(async () => {
    gone.abort(reason);
    throw new Error('a defect');
  });
  await ask(`/contexts/${id}/query`, { query: 'q' }, gone.signal);
  expect(failures()).toHaveLength(1);
  expect(failures()[0]).toContain('a defect');
});

test('a client that goes away while it sends is no error of ours', async () => {
  const arrived = vi.spyOn(server.clock, 'monotonicMs');
  const sent = httpRequest({
    port: server.http.port,
    path: `/contexts/${id}/query`,
    method: 'POST',
    headers: { 'Content-Type': 'application/json', 'Content-Length': 1000 },
  });
  sent.on('error', () => undefined);
  await new Promise((resolve) => {
    sent.write('{"query":', resolve);
  });
  await until(() => arrived.mock.calls.length > 0);
  sent.destroy();
  await until(() => statuses().includes(499));
  expect(failures()).toEqual([]);
});

test('a client that goes away while a session is looked up asks nothing', async () => {
  const { id: sessionId } = (await (await server.post(`/contexts/${id}/sessions`, {})).json()) as {
    id: string;
  };
  const gate = new Gate();
  const { engine } = server;
  const looking = vi.spyOn(engine, 'session').mockImplementationOnce(async (asked) => {
    await gate.opened;
    return engine.sessions.get(asked) ?? Promise.reject(new Error('expected the session'));
  });
  const leaving = new AbortController();
  const path = `/sessions/${sessionId}/query`;
  const response = server.post(
    path,
    { query: 'q' },
    {
      headers: { 'Content-Type': 'application/json' },
      signal: leaving.signal,
    },
  );
  await until(() => looking.mock.calls.length === 1);
  leaving.abort();
  await expect(response).rejects.toThrow();
  // The server hears of it a little later than the client.
  setTimeout(() => gate.open(), 50);
  await until(() => statuses().includes(499));
  expect(engine.queries).toEqual([]);
  expect(failures()).toEqual([]);
});
