import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ServerProcess } from '../../src/cli/server-process.ts';
import type { Context } from '../../src/client/types.ts';
import {
  childrenOf,
  createWorkspace,
  longQuestion,
  observatory,
  questions,
  startServer,
} from './support.ts';

const workspace = createWorkspace();
let server: ServerProcess;
let context: Context;
let answers: readonly string[];

async function askAll(): Promise<string[]> {
  const given: string[] = [];
  for (const query of questions) {
    const { answer, usage } = await server.client.query(context.id, { query });
    expect(usage.prefilledTokens).toBe(usage.queryTokens);
    given.push(answer);
  }
  return given;
}

beforeAll(async () => {
  server = await startServer(workspace);
  context = await server.client.put({ document: observatory, labels: { source: 'test' } });
  answers = await askAll();
});
afterAll(async () => {
  await server.stop();
  workspace.remove();
});

describe('a restart', () => {
  it('ends with status 0 on SIGTERM and answers the same from disk afterwards', async () => {
    expect(await server.stop()).toBe(0);
    server = await startServer(workspace);
    expect(await server.client.get(context.id)).toMatchObject({
      status: 'ready',
      size: context.size,
      labels: { source: 'test' },
    });
    const first = await server.client.query(context.id, { query: questions[0] ?? '' });
    expect(first.cache.source).toBe('disk');
    expect(await askAll()).toEqual(answers);
    expect(await server.client.put({ document: observatory })).toMatchObject({
      id: context.id,
      reused: true,
    });
  });

  it('ends with status 0 on SIGINT too', async () => {
    expect(await server.stop('SIGINT')).toBe(0);
    server = await startServer(workspace);
  });
});

describe('SIGTERM during an answer', () => {
  it('finishes the answer first', async () => {
    const request = { query: longQuestion, maxTokens: 200 };
    const whole = await server.client.query(context.id, request);
    expect(whole.usage.completionTokens).toBeGreaterThan(50);
    let text = '';
    let stopped: Promise<number | null> | undefined;
    for await (const event of server.client.stream(context.id, request)) {
      if (event.type === 'token') text += event.text;
      stopped ??= server.stop();
    }
    expect(text).toBe(whole.answer);
    expect(await stopped).toBe(0);
    server = await startServer(workspace);
  });
});

describe('an engine that is killed', () => {
  it('is started again; meanwhile queries get 503 with Retry-After, and contexts survive', async () => {
    const [engine, ...others] = await childrenOf(server.pid);
    expect(others).toEqual([]);
    const answer = server.client.stream(context.id, { query: longQuestion, maxTokens: 500 });
    expect(await answer.next()).toMatchObject({ value: { type: 'token' } });
    process.kill(engine ?? 0, 'SIGKILL');
    const rest = async (): Promise<void> => {
      for await (const event of answer) expect(event.type).toBe('token');
    };
    await expect(rest()).rejects.toMatchObject({ code: 'engine_unavailable' });
    const response = await fetch(`${server.url}/contexts/${context.id}/query`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ query: 'q' }),
    });
    expect(response.status).toBe(503);
    expect(Number(response.headers.get('retry-after'))).toBeGreaterThan(0);
    expect((await fetch(`${server.url}/healthz`)).status).toBe(200);
    await server.client.waitReady();
    expect(await askAll()).toEqual(answers);
    expect(await childrenOf(server.pid)).not.toContain(engine);
  });
});

describe('a server that is killed', () => {
  it('takes its engine with it, and loses no context', async () => {
    const [engine] = await childrenOf(server.pid);
    await server.stop('SIGKILL');
    await expect.poll(() => isRunning(engine ?? 0), { timeout: 10_000 }).toBe(false);
    server = await startServer(workspace);
    expect(await askAll()).toEqual(answers);
  });
});

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}
