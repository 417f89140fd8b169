import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { afterEach, describe, expect, it } from 'vitest';
import { contextAsk, type Job } from '../../loadtest/asks.ts';
import { fire } from '../../loadtest/cannon.ts';
import { chatAsk, requireChat } from '../../loadtest/chat.ts';
import { countStream, stream, streamOnce } from '../../loadtest/streams.ts';
import { createTally } from '../../loadtest/tally.ts';
import { visitAll } from '../../loadtest/visitors.ts';

/* A server that says what a test wants it to stands in for readonce. */

type Handler = (body: Record<string, unknown>, response: ServerResponse, path: string) => void;

let server: Server | undefined;

afterEach(() => {
  server?.closeAllConnections();
  server?.close();
});

async function serve(handle: Handler): Promise<string> {
  const listening = createServer((request: IncomingMessage, response) => {
    let text = '';
    request.setEncoding('utf8').on('data', (part: string) => {
      text += part;
    });
    request.on('end', () => handle(JSON.parse(text), response, request.url ?? ''));
    request.on('error', () => undefined);
  });
  server = listening;
  await new Promise<void>((resolve) => {
    listening.listen(0, '127.0.0.1', resolve);
  });
  const address = listening.address();
  return typeof address === 'object' ? `http://127.0.0.1:${address?.port ?? 0}` : '';
}

function answer(text: string) {
  return {
    answer: text,
    finishReason: 'stop',
    usage: { completionTokens: 2 },
    timings: { firstTokenMs: 3 },
    cache: { source: 'host' },
  };
}

function json(response: ServerResponse, body: unknown): void {
  response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}

function events(response: ServerResponse, ...all: readonly (readonly [string, unknown])[]): void {
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  for (const [event, data] of all) {
    response.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
  }
  response.end();
}

function job(query: string, text: string): Job {
  return {
    ...contextAsk({ contextId: 'ctx_1', query, maxTokens: 8 }),
    expected: { text, finishReason: 'stop', completionTokens: 2 },
  };
}

const phase = { name: 'test', clients: 2 };
const bounds = { ms: 10_000, requests: 20 };

describe('a load of requests', () => {
  it('sends every job in turn and finds wrong answers', async () => {
    const url = await serve((body, response) =>
      json(response, answer(`to ${String(body['query'])}`)),
    );
    const tally = createTally();
    const jobs = [job('one', 'to one'), job('two', 'to three')];
    await fire({ url, clients: 2, jobs, bounds, tally });
    const figures = tally.figures(phase);
    expect(figures.answers).toBeGreaterThanOrEqual(20);
    expect(figures.wrong).toBeGreaterThanOrEqual(9);
    expect(figures.mismatches[0]).toEqual({ query: 'two', expected: 'to three', got: 'to two' });
    expect(figures).toMatchObject({ errors: {}, refused: {}, firstTokenMs: { p50: 3 } });
  });

  it('counts refusals, problems and what is no answer by code', async () => {
    const problems = [
      [503, { 'retry-after': '2' }, '{"code":"overloaded"}'],
      [503, {}, '{"code":"overloaded"}'],
      [500, {}, '{"code":"internal"}'],
      [200, {}, 'no JSON'],
    ] as const;
    let count = 0;
    const url = await serve((_body, response) => {
      const [status, headers, body] = problems[count++ % problems.length] ?? problems[0];
      response.writeHead(status, headers).end(body);
    });
    const tally = createTally();
    await fire({ url, clients: 1, jobs: [job('q', 'a')], bounds, tally });
    const { refused, errors } = tally.figures(phase);
    expect(Object.keys(refused)).toEqual(['overloaded']);
    expect(Object.keys(errors).toSorted()).toEqual([
      'internal',
      'overloaded without Retry-After',
      'status 200, unreadable',
    ]);
  });
});

describe('a load of streams', () => {
  it('times pieces, and takes their concatenation for the answer', async () => {
    const url = await serve((body, response) => {
      const second = body['query'] === 'good' ? 'bc' : 'xy';
      events(
        response,
        ['token', { text: 'a' }],
        ['token', { text: second }],
        ['done', answer('abc')],
      );
    });
    const tally = createTally();
    let pieces = 0;
    const jobs = [job('good', 'abc'), job('bad', 'abc')];
    const onAnswer = (times: readonly number[]): void => {
      pieces = Math.max(pieces, times.length);
    };
    await stream({ url, clients: 2, jobs, bounds, tally }, { onAnswer });
    const figures = tally.figures(phase);
    expect(figures.answers).toBeGreaterThanOrEqual(20);
    expect(figures.mismatches[0]?.got).toBe('axy');
    expect(figures.errors).toEqual({});
    expect(pieces).toBe(2);
  });

  it('is left after some pieces, and a broken one is an error', async () => {
    const url = await serve((_body, response) => {
      events(response, ['token', { text: 'a' }], ['token', { text: 'b' }]);
    });
    expect(await streamOnce(url, job('q', 'ab'), { leaveAfter: 1 })).toEqual({ kind: 'left' });
    const broken = await streamOnce(url, job('q', 'ab'));
    expect(broken).toMatchObject({ kind: 'problem', code: 'stream broken off' });
    const tally = createTally();
    countStream(tally, job('q', 'ab'), broken);
    expect(tally.figures(phase).errors).toEqual({ 'stream broken off': 1 });
  });

  it('of a crowd ends for everybody, whatever they do', async () => {
    const url = await serve((_body, response) => {
      events(response, ['token', { text: 'abc' }], ['done', answer('abc')]);
    });
    const tally = createTally();
    const crowd = { clients: 40, rampMs: 10, limitMs: 60_000, seed: 1 };
    const counts = await visitAll({ url, jobs: [job('q', 'abc')], tally, ...crowd });
    expect(Object.values(counts).reduce((sum, count) => sum + count, 0)).toBe(40);
    expect(Object.keys(counts).length).toBeGreaterThan(3);
    expect(tally.figures(phase)).toMatchObject({ wrong: 0, errors: {} });
  });
});

describe('the baseline', () => {
  const question = { model: 'm', document: 'text', query: 'q', maxTokens: 4 };

  it('reads a streamed completion with its usage', async () => {
    const url = await serve((body, response) => {
      expect(body).toMatchObject({ stream: true, stream_options: { include_usage: true } });
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      const delta = (content: string) => ({ choices: [{ delta: { content } }] });
      const chunks = [
        { choices: [{ delta: { role: 'assistant', content: '' } }] },
        delta('to'),
        delta('day'),
        { choices: [{ delta: {}, finish_reason: 'stop' }] },
        { choices: [], usage: { completion_tokens: 2 } },
      ];
      for (const chunk of chunks) response.write(`data: ${JSON.stringify(chunk)}\n\n`);
      response.end('data: [DONE]\n\n');
    });
    const result = await streamOnce(url, chatAsk({ ...question, streamed: true }));
    expect(result).toMatchObject({
      kind: 'answer',
      joined: 'today',
      reply: { text: 'today', finishReason: 'stop', completionTokens: 2 },
    });
  });

  it('refuses an answer from a cache', () => {
    const ask = chatAsk({ ...question, streamed: false });
    const completion = {
      choices: [{ message: { content: 'a' }, finish_reason: 'stop' }],
      usage: { completion_tokens: 1, prompt_tokens_details: { cached_tokens: 7 } },
    };
    expect(() => ask.read(completion)).toThrow(/7 tokens came from a cache/);
  });

  it('says so when the server has no such interface', async () => {
    const missing = await serve((_body, response) => {
      response.writeHead(404).end('{"code":"not_found"}');
    });
    await expect(requireChat(missing)).rejects.toMatchObject({ code: 'unsupported' });
  });
});
