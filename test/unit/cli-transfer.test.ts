import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { runCli } from '../../src/cli/run.ts';

const content = Buffer.from('the bytes of a context file');

let handle: (request: IncomingMessage, response: ServerResponse, body: Buffer) => void;
let url: string;
let folder: string;
const server = createServer((request, response) => {
  void buffer(request).then((body) => handle(request, response, body));
});

beforeAll(async () => {
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
});
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'readonce-transfer-'));
  return () => rmSync(folder, { recursive: true, force: true });
});

async function run(...args: readonly string[]) {
  let out = '';
  let err = '';
  const status = await runCli([...args, '--url', url], {
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

it('export writes the file that -o names, and nothing else', async () => {
  handle = (request, response) => {
    expect(request.url).toBe('/contexts/ctx_1/export');
    response.end(content);
  };
  const file = join(folder, 'one.readonce');
  expect(await run('export', 'ctx_1', '-o', file)).toEqual({
    status: 0,
    out: `${file}\n`,
    err: '27 B\n',
  });
  expect(readFileSync(file)).toEqual(content);
  expect(readdirSync(folder)).toEqual(['one.readonce']);
});

it('export leaves no file behind when the transfer breaks off', async () => {
  handle = (_, response) => {
    response.writeHead(200, { 'Content-Length': 1000 });
    response.write(content, () => response.destroy());
  };
  const { status, err } = await run('export', 'ctx_1', '--output', join(folder, 'one.readonce'));
  expect(status).toBe(1);
  expect(err).toContain('one.readonce');
  expect(readdirSync(folder)).toEqual([]);
});

it('export says what the server says, and writes nothing', async () => {
  handle = (_, response) => {
    response.writeHead(404).end('{"code":"not_found","detail":"No context ctx_1."}');
  };
  const { status, err } = await run('export', 'ctx_1', '-o', join(folder, 'one.readonce'));
  expect({ status, err }).toEqual({ status: 1, err: 'readonce export: No context ctx_1.\n' });
  expect(readdirSync(folder)).toEqual([]);
});

it('import sends the file and prints the context', async () => {
  const context = { id: 'ctx_1', status: 'ready' };
  handle = (request, response, body) => {
    expect(request.method).toBe('POST');
    expect(request.url).toBe('/contexts/import');
    expect(request.headers['content-type']).toBe('application/octet-stream');
    expect(body).toEqual(content);
    response.end(JSON.stringify(context));
  };
  const file = join(folder, 'one.readonce');
  writeFileSync(file, content);
  const { status, out } = await run('import', file, '--json');
  expect(status).toBe(0);
  expect(JSON.parse(out)).toEqual(context);
});

it('import says which file cannot be read', async () => {
  handle = (_, response) => response.end();
  const { status, err } = await run('import', join(folder, 'none.readonce'));
  expect(status).toBe(1);
  expect(err).toContain('none.readonce');
});
