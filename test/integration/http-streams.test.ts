import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { ReadonceError } from '../../src/core/errors.ts';
import { Gate } from '../support/fake-engine.ts';
import {
  readEvents,
  startTestServer,
  until,
  type ReceivedEvent,
  type TestServer,
} from '../support/test-server.ts';

let server: TestServer;

beforeEach(async () => {
  server = await startTestServer({ http: { heartbeatMs: 20 } });
});

afterEach(async () => {
  await server.close();
});

async function putReady(): Promise<string> {
  const response = await server.put({ document: 'text' });
  return ((await response.json()) as { id: string }).id;
}

async function allEvents(response: Response): Promise<ReceivedEvent[]> {
  expect(response.headers.get('content-type')).toBe('text/event-stream');
  const events: ReceivedEvent[] = [];
  for await (const event of readEvents(response)) {
    if (event.event !== 'comment') events.push(event);
  }
  return events;
}

test('a query is answered with its id, usage, cache and timings from the arrival on', async () => {
  const id = await putReady();
  const response = await server.query(id, { query: ' abc ', seed: 7, stop: ['\n\n'] });
  expect(response.status).toBe(200);
  const answer = (await response.json()) as { timings: Record<string, number> };
  expect(answer).toMatchObject({
    id: expect.stringMatching(/^ans_[0-9a-f]{32}$/),
    object: 'answer',
    contextId: id,
    answer: 'cba',
    finishReason: 'stop',
    usage: { contextTokens: 10, queryTokens: 3, completionTokens: 3, prefilledTokens: 3 },
    cache: { source: 'disk', keepRatio: 0.3, pairs: 60, bytes: 960 },
  });
  // The fake says 1, 3 and 4 ms; the time before the engine comes on top, the same for all.
  const before = (answer.timings['queueMs'] ?? 0) - 1;
  expect(before).toBeGreaterThan(0);
  expect(answer.timings['firstTokenMs']).toBeCloseTo(3 + before, 6);
  expect(answer.timings['totalMs']).toBeCloseTo(4 + before, 6);
  expect(server.engine.queries[0]).toEqual({
    source: { kind: 'context', contextId: id, keepRatio: undefined },
    tenant: '',
    turns: [{ role: 'user', content: 'abc' }],
    sampling: { maxTokens: 128, temperature: 0, topP: 1, topK: 0, seed: 7, stop: ['\n\n'] },
  });
});

test('a context whose pairs have no order is asked with all of them, or not', async () => {
  const put = await server.put({ document: 'text', compression: { method: 'none' } });
  const { id } = (await put.json()) as { id: string };
  const response = await server.query(id, { query: 'q', keepRatio: 0.5 });
  expect(response.status).toBe(400);
  expect(await response.json()).toMatchObject({ errors: [{ path: 'keepRatio' }] });
  expect(server.engine.queries).toEqual([]);
  expect((await server.query(id, { query: 'q', keepRatio: 1 })).status).toBe(200);
});

test('a query notes when the context was last used', async () => {
  const id = await putReady();
  server.clock.advance(5000);
  await (await server.query(id, { query: 'q' })).text();
  const context = (await (await server.request(`/contexts/${id}`)).json()) as {
    createdAt: string;
    lastUsedAt: string;
  };
  const idleMs = Date.parse(context.lastUsedAt) - Date.parse(context.createdAt);
  expect(idleMs).toBeGreaterThanOrEqual(5000);
});

test('a streamed answer is its tokens, then done with the answer object', async () => {
  const id = await putReady();
  const events = await allEvents(await server.query(id, { query: 'abc', stream: true }));
  expect(events.map(({ event }) => event)).toEqual(['token', 'token', 'done']);
  const text = events.slice(0, -1).map(({ data }) => data['text']);
  expect(text.join('')).toBe('cba');
  expect(events.at(-1)?.data).toMatchObject({ object: 'answer', answer: 'cba', contextId: id });
});

test('the first token is sent before the answer is finished', async () => {
  const id = await putReady();
  server.engine.textGate = new Gate();
  const events = readEvents(await server.query(id, { query: 'abc', stream: true }));
  expect((await events.next()).value).toEqual({ event: 'token', data: { text: 'c' } });
  server.engine.textGate.open();
});

test('an idle stream is kept open by comments', async () => {
  const id = await putReady();
  server.engine.textGate = new Gate();
  const events = readEvents(await server.query(id, { query: 'abc', stream: true }));
  await events.next();
  expect((await events.next()).value?.event).toBe('comment');
  server.engine.textGate.open();
});

test('an error before the first token is an ordinary problem', async () => {
  const id = await putReady();
  server.engine.queryFailure = new ReadonceError('context_too_long', 'Expected fewer tokens.');
  const response = await server.query(id, { query: 'abc', stream: true });
  expect(response.status).toBe(422);
  expect(response.headers.get('content-type')).toBe('application/problem+json');
  expect(await response.json()).toMatchObject({ code: 'context_too_long' });
});

test('an error after the first token is an error event with a problem', async () => {
  const id = await putReady();
  server.engine.lateQueryFailure = new ReadonceError('engine_unavailable', 'The engine died.');
  const response = await server.query(id, { query: 'abc', stream: true });
  const events = await allEvents(response);
  expect(events.map(({ event }) => event)).toEqual(['token', 'error']);
  expect(events[1]?.data).toMatchObject({
    code: 'engine_unavailable',
    status: 503,
    detail: 'The engine died.',
    instance: `/contexts/${id}/query`,
    requestId: response.headers.get('x-request-id'),
  });
});

test.each([false, true])(
  'a client that goes away stops its answer (stream: %s)',
  async (stream) => {
    const id = await putReady();
    server.engine.queryGate = new Gate();
    const leaving = new AbortController();
    const response = server.query(id, { query: 'abc', stream }, leaving.signal);
    await until(() => server.engine.queries.length === 1);
    leaving.abort();
    await expect(response).rejects.toThrow();
    await until(() => server.engine.aborted === 1);
  },
);

test('a client that goes away in the middle of a stream stops its answer', async () => {
  const id = await putReady();
  server.engine.textGate = new Gate();
  const leaving = new AbortController();
  const response = await server.query(id, { query: 'abc', stream: true }, leaving.signal);
  await readEvents(response).next();
  leaving.abort();
  await until(() => server.engine.aborted === 1);
});

test('events of an ingestion are its progress, then ready with the context', async () => {
  server.engine.ingestGate = new Gate();
  const put = await server.put({ document: 'text' }, { Prefer: 'respond-async' });
  const { id } = (await put.json()) as { id: string };
  const events = readEvents(await server.request(`/contexts/${id}/events`));
  expect((await events.next()).value).toEqual({
    event: 'progress',
    data: { phase: 'prefill', done: 4, total: 4 },
  });
  server.engine.ingestGate.open();
  const rest: ReceivedEvent[] = [];
  for await (const event of events) if (event.event !== 'comment') rest.push(event);
  expect(rest.map(({ event, data }) => data['phase'] ?? event)).toEqual([
    'score',
    'persist',
    'ready',
  ]);
  expect(rest.at(-1)?.data).toMatchObject({ id, status: 'ready', object: 'context' });
});

test('events of a ready context are ready at once', async () => {
  const id = await putReady();
  const events = await allEvents(await server.request(`/contexts/${id}/events`));
  expect(events).toHaveLength(1);
  expect(events[0]).toMatchObject({ event: 'ready', data: { id, status: 'ready' } });
});

test('events of an ingestion that fails end with failed and its problem, then and later', async () => {
  server.engine.ingestGate = new Gate();
  server.engine.ingestFailure = new ReadonceError('storage_full', 'Expected room on disk.');
  const put = await server.put({ document: 'text' }, { Prefer: 'respond-async' });
  const { id } = (await put.json()) as { id: string };
  const following = allEvents(await server.request(`/contexts/${id}/events`));
  server.engine.ingestGate.open();
  const events = await following;
  expect(events.map(({ event }) => event)).toEqual(['progress', 'failed']);
  expect(events[1]?.data).toMatchObject({ code: 'storage_full', detail: 'Expected room on disk.' });
  const later = await allEvents(await server.request(`/contexts/${id}/events`));
  expect(later.map(({ event }) => event)).toEqual(['failed']);
});

test('a reader that goes away frees its place, and does not stop the ingestion', async () => {
  const limited = await startTestServer({ service: { maxEventStreams: 1 } });
  limited.engine.ingestGate = new Gate();
  const put = await limited.put({ document: 'text' }, { Prefer: 'respond-async' });
  const { id } = (await put.json()) as { id: string };
  const path = `/contexts/${id}/events`;
  const leaving = new AbortController();
  await limited.request(path, { signal: leaving.signal });
  expect((await limited.request(path)).status).toBe(503);
  leaving.abort();
  let status = 503;
  while (status === 503) {
    const response = await limited.request(path);
    status = response.status;
    await response.body?.cancel();
  }
  expect(status).toBe(200);
  expect(limited.engine.aborted).toBe(0);
  limited.engine.ingestGate.open();
  await until(() => limited.store.contexts.has(id));
  await limited.close();
});

test('an answer that is long in coming begins with a comment; an error is an event then', async () => {
  const hasty = await startTestServer({ http: { maxSilentMs: 10 } });
  const { id } = (await (await hasty.put({ document: 'text' })).json()) as { id: string };
  const query = async () => readEvents(await hasty.query(id, { query: 'abc', stream: true }));
  const kinds = async (events: AsyncIterable<ReceivedEvent>) => {
    const seen: string[] = [];
    for await (const { event } of events) seen.push(event);
    return seen;
  };
  hasty.engine.queryGate = new Gate();
  const answered = await query();
  hasty.engine.queryGate.open();
  expect(await kinds(answered)).toEqual(['comment', 'token', 'token', 'done']);
  hasty.engine.queryGate = new Gate();
  const failed = await query();
  hasty.engine.lateQueryFailure = new ReadonceError('overloaded', 'Expected a shorter queue.');
  hasty.engine.queryGate.open();
  expect(await kinds(failed)).toEqual(['comment', 'token', 'error']);
  await hasty.close();
});

test('events of an ingestion that waits its turn begin at once', async () => {
  const queued = new Gate();
  vi.spyOn(server.engine, 'ingest').mockImplementation(async (_request, _onProgress, signal) => {
    await queued.pass(signal);
    throw new ReadonceError('storage_full', 'Expected room on disk.');
  });
  const put = await server.put({ document: 'text' }, { Prefer: 'respond-async' });
  const { id } = (await put.json()) as { id: string };
  const response = await server.request(`/contexts/${id}/events`);
  expect(response.status).toBe(200);
  queued.open();
  expect((await allEvents(response)).map(({ event }) => event)).toEqual(['failed']);
});

test('HEAD of an event stream answers without opening one', async () => {
  server.engine.ingestGate = new Gate();
  const put = await server.put({ document: 'text' }, { Prefer: 'respond-async' });
  const { id } = (await put.json()) as { id: string };
  const response = await server.request(`/contexts/${id}/events`, { method: 'HEAD' });
  expect(response.status).toBe(200);
  expect(response.headers.get('content-type')).toBe('text/event-stream');
});
