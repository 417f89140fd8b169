import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import manifest from '../../package.json' with { type: 'json' };
import { runCli } from '../../src/cli/run.ts';

const context = {
  id: 'ctx_1',
  status: 'ready',
  reused: false,
  document: { tokens: 1204 },
  compression: { method: 'kvzip', keepRatio: 0.3, budget: 'global', precision: 'f16' },
  size: {
    pairsTotal: 110520,
    pairsKept: 34668,
    fullBytes: 28293120,
    storedBytes: 8875008,
    diskBytes: 9051136,
    compressionFactor: 3.19,
  },
  timings: { totalMs: 1234 },
  createdAt: '2026-01-02T03:04:05Z',
  labels: { source: 'handbook' },
};
const answer = {
  answer: 'In 1974.',
  usage: { contextTokens: 1204, queryTokens: 14, completionTokens: 4, prefilledTokens: 14 },
  cache: { source: 'disk' },
  timings: { firstTokenMs: 12.3 },
};

interface Seen {
  readonly method: string;
  readonly url: string;
  readonly body: unknown;
}

let seen: Seen[];
let url: string;
let folder: string;
/** Answers like a server that has everything; a GET of a list has two pages. */
const server = createServer((request, response) => {
  const chunks: Buffer[] = [];
  request.on('data', (chunk: Buffer) => chunks.push(chunk));
  request.on('end', () => {
    const text = Buffer.concat(chunks).toString('utf8');
    const { method = '', url = '' } = request;
    seen.push({ method, url, body: text === '' ? undefined : JSON.parse(text) });
    if (method === 'DELETE' && url.endsWith('ctx_none')) {
      response.writeHead(404).end('{"code":"not_found","detail":"No context ctx_none."}');
    } else if (method === 'DELETE') {
      response.writeHead(204).end();
    } else if (url.endsWith('/query') && text.includes('"stream":true')) {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write(
        'event: token\ndata: {"text":"In "}\n\nevent: token\ndata: {"text":"1974."}\n\n',
      );
      response.end(`event: done\ndata: ${JSON.stringify(answer)}\n\n`);
    } else if (url.endsWith('/query')) {
      response.end(JSON.stringify(answer));
    } else if (url.endsWith('/events')) {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write('event: progress\ndata: {"phase":"prefill","done":2,"total":2}\n\n');
      response.end(`event: ready\ndata: ${JSON.stringify(context)}\n\n`);
    } else if (method === 'PUT') {
      response.writeHead(202).end('{"id":"ctx_1","status":"ingesting"}');
    } else {
      const nextCursor = url.includes('cursor') ? null : 'next';
      response.end(JSON.stringify({ object: 'list', data: [context], nextCursor }));
    }
  });
});

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'readonce-cli-'));
  await new Promise<void>((done) => {
    server.listen(0, '127.0.0.1', done);
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('Expected a TCP address.');
  url = `http://127.0.0.1:${address.port}`;
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
  rmSync(folder, { recursive: true, force: true });
});
beforeEach(() => {
  seen = [];
});

async function run(
  args: readonly string[],
): Promise<{ readonly status: number; readonly out: string; readonly err: string }> {
  let out = '';
  let err = '';
  const status = await runCli(args, {
    out: (text) => {
      out += text;
    },
    err: (text) => {
      err += text;
    },
    interactive: false,
  });
  return { status, out, err };
}

function document(content: string | Uint8Array): string {
  const path = join(folder, 'document.txt');
  writeFileSync(path, content);
  return path;
}

const commands = ['serve', 'put', 'ask', 'ls', 'rm', 'export', 'import', 'store', 'demo'] as const;

describe('command line', () => {
  it('explains itself with --help, and when nothing is asked', async () => {
    const help = await run(['--help']);
    expect(help).toMatchObject({ status: 0, err: '' });
    for (const name of commands) expect(help.out).toContain(name);
    expect((await run([])).status).toBe(2);
  });

  it('tells its version', async () => {
    expect(await run(['--version'])).toEqual({ status: 0, out: `${manifest.version}\n`, err: '' });
  });

  it.each(commands)('explains %s', async (name) => {
    const { status, out } = await run([name, '--help']);
    expect(status).toBe(0);
    expect(out).toContain(`readonce ${name}`);
  });

  it.each([
    [['sevre'], /serve.*"sevre"/],
    [['ls', '--limt', '3'], /--limt/],
    [['ls', '--limit'], /--limit/],
    [['ls', '--limit', '0'], /--limit .*0/],
    [['ls', '--json=maybe'], /--json/],
    [['ls', 'extra'], /readonce ls/],
    [['put'], /readonce put FILE/],
    [['ask', 'ctx_1'], /readonce ask ID QUESTION/],
    [['rm'], /readonce rm ID/],
    [['export'], /readonce export ID/],
    [['import'], /readonce import FILE/],
    [['store'], /stats, verify, compact, gc/],
    [['store', 'vacuum'], /stats.*"vacuum"/],
    [['store', 'stats', 'extra'], /readonce store stats/],
    [['store', 'compact', 'there'], /readonce store compact/],
    [['store', 'gc', '--quarantine-days', '-1'], /quarantine-days/],
    [['ls', '--url', 'nowhere'], /--url .*"nowhere"/],
    [['put', 'x', '--keep-ratio', 'half'], /--keep-ratio .*"half"/],
    [['put', 'x', '--label', 'handbook'], /--label .*"handbook"/],
    [['serve', '--port', 'abc'], /--port .*"abc"/],
    [['serve', '--host', '0.0.0.0'], /allow-remote/],
    [['serve', '--config', '/none.json'], /\/none\.json/],
  ])('refuses %j with status 2 and says why', async (args, message) => {
    const { status, out, err } = await run(args);
    expect(status).toBe(2);
    expect(out).toBe('');
    expect(err).toMatch(message);
    expect(seen).toEqual([]);
  });
});

describe('put', () => {
  it('sends the file and prints the id and what was kept', async () => {
    const { status, out, err } = await run(['put', document('Hello.\n'), '--url', url]);
    expect(status).toBe(0);
    expect(seen[0]).toEqual({ method: 'PUT', url: '/contexts', body: { document: 'Hello.\n' } });
    expect(out.split('\n')[0]).toBe('ctx_1');
    expect(out).toMatch(/34,668 of 110,520/);
    expect(out).toMatch(/8\.9 MB of 28\.3 MB/);
    expect(err).toContain('100 %');
  });

  it('sends every option', async () => {
    const flags = {
      method: 'kvzip',
      'keep-ratio': '0.5',
      budget: 'uniform',
      precision: 'f16',
      instructions: 'Be brief.',
      ttl: '60',
      label: 'a=1,b=x=y',
    };
    const given = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value]);
    const { status } = await run(['put', document('d'), '--url', url, '--pinned', ...given]);
    expect(status).toBe(0);
    expect(seen[0]?.body).toEqual({
      document: 'd',
      instructions: 'Be brief.',
      compression: { method: 'kvzip', keepRatio: 0.5, budget: 'uniform', precision: 'f16' },
      ttlSeconds: 60,
      pinned: true,
      labels: { a: '1', b: 'x=y' },
    });
  });

  it("prints the server's JSON with --json", async () => {
    const { out } = await run(['put', document('d'), '--url', url, '--json']);
    expect(JSON.parse(out)).toEqual(context);
  });

  it('refuses a file that is not there or no UTF-8, by name', async () => {
    const missing = await run(['put', join(folder, 'none.txt'), '--url', url]);
    expect(missing).toMatchObject({ status: 1, out: '' });
    expect(missing.err).toContain('none.txt');
    const invalid = await run(['put', document(Uint8Array.of(0xff)), '--url', url]);
    expect(invalid.status).toBe(1);
    expect(invalid.err).toMatch(/UTF-8/);
    expect(seen).toEqual([]);
  });
});

describe('ask', () => {
  it('streams the answer to stdout and what it took to stderr', async () => {
    const { status, out, err } = await run(['ask', 'ctx_1', 'When?', '--url', url]);
    expect({ status, out }).toEqual({ status: 0, out: 'In 1974.\n' });
    expect(err).toMatch(/14 tokens computed, 1204 taken from disk/);
  });

  it('sends the sampling options and prints JSON with --json', async () => {
    const flags = ['--max-tokens', '5', '--temperature', '0.5', '--seed', '3', '--json'];
    const { out } = await run(['ask', 'ctx_1', 'When?', '--url', url, ...flags]);
    expect(JSON.parse(out)).toEqual(answer);
    expect(seen[0]?.body).toEqual({ query: 'When?', maxTokens: 5, temperature: 0.5, seed: 3 });
  });

  it('takes a question that looks like a flag behind --', async () => {
    const { status } = await run(['ask', '--url', url, '--', 'ctx_1', '--help']);
    expect(status).toBe(0);
    expect(seen[0]?.body).toMatchObject({ query: '--help' });
  });
});

describe('ls', () => {
  it('lists one row a context and follows pages up to the limit', async () => {
    const { status, out, err } = await run(['ls', '--url', url, '--limit', '2']);
    expect(status).toBe(0);
    expect(out.trim().split('\n')).toHaveLength(3);
    expect(out).toMatch(/ctx_1 +ready +1,204 +kvzip +0\.3 +9\.1 MB .* source=handbook/);
    expect(err).toBe('');
    expect(seen.map((request) => request.url)).toEqual([
      '/contexts?limit=2',
      '/contexts?limit=1&cursor=next',
    ]);
  });

  it('says when there are more, and filters by label', async () => {
    const { err } = await run(['ls', '--url', url, '--limit', '1', '--label', 'source=handbook']);
    expect(err).toMatch(/more/);
    expect(seen[0]?.url).toBe('/contexts?limit=1&label=source%3Ahandbook');
  });
});

describe('rm', () => {
  it('deletes each context and prints its id', async () => {
    const { status, out } = await run(['rm', 'ctx_1', 'ctx_2', '--url', url]);
    expect({ status, out }).toEqual({ status: 0, out: 'ctx_1\nctx_2\n' });
  });

  it("ends with status 1 and the problem's detail", async () => {
    const { status, err } = await run(['rm', 'ctx_none', '--url', url]);
    expect({ status, err }).toEqual({ status: 1, err: 'readonce rm: No context ctx_none.\n' });
  });
});

it('says how to start the server when none answers', async () => {
  // Port 9 (discard) is never a readonce server.
  const { status, err } = await run(['ls', '--url', 'http://127.0.0.1:9']);
  expect(status).toBe(1);
  expect(err).toContain('readonce serve');
});
