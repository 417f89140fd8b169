import { writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ServerProcess } from '../../src/cli/server-process.ts';
import { createWorkspace, observatory, runProgram, startServer, type Finished } from './support.ts';

const workspace = createWorkspace();
let server: ServerProcess;

beforeAll(async () => {
  server = await startServer(workspace);
});
afterAll(async () => {
  await server.stop();
  workspace.remove();
});

function readonce(args: readonly string[], stdin?: string): Promise<Finished> {
  const env = { ...workspace.env, READONCE_URL: server.url };
  return runProgram(args, { env, ...(stdin === undefined ? {} : { stdin }) });
}

describe('the commands', () => {
  it('put a file, answer from it, list it and remove it', async () => {
    const file = join(workspace.folder, 'observatory.txt');
    writeFileSync(file, observatory);
    const put = await readonce(['put', file, '--keep-ratio', '0.5', '--label', 'source=file']);
    expect(put).toMatchObject({ status: 0 });
    const id = put.stdout.split('\n')[0] ?? '';
    expect(id).toMatch(/^ctx_[0-9a-f]{40}$/);
    expect(put.stdout).toContain('keepRatio 0.5');

    const ask = await readonce(['ask', id, 'Who was the first director of the observatory?']);
    expect(ask.status).toBe(0);
    expect(ask.stdout).toContain('Ada Finch');
    expect(ask.stdout.endsWith('\n')).toBe(true);

    const ls = await readonce(['ls', '--label', 'source=file']);
    expect(ls.stdout).toContain(id);
    expect(ls.stdout).toContain('source=file');

    expect(await readonce(['rm', id])).toEqual({ status: 0, stdout: `${id}\n`, stderr: '' });
    expect((await readonce(['ls'])).stdout).not.toContain(id);
  });

  it('put standard input and print JSON', async () => {
    const put = await readonce(['put', '-', '--json'], 'The well is 40 metres deep.');
    const context: { readonly id: string } = JSON.parse(put.stdout);
    const ask = await readonce(['ask', context.id, 'How deep is the well?', '--json']);
    expect(JSON.parse(ask.stdout)).toMatchObject({ object: 'answer', contextId: context.id });
  });

  it('export a context, import it after it was removed, and answer from it as before', async () => {
    const put = await readonce(['put', '-'], observatory);
    const id = put.stdout.split('\n')[0] ?? '';
    const question = 'Where was the lens of the main telescope ground?';
    const before = await readonce(['ask', id, question]);
    const file = join(workspace.folder, 'observatory.readonce');
    expect(await readonce(['export', id, '-o', file])).toMatchObject({
      status: 0,
      stdout: `${file}\n`,
    });
    expect((await readonce(['rm', id])).status).toBe(0);
    expect((await readonce(['ask', id, question])).status).toBe(1);

    expect((await readonce(['import', file])).stdout).toMatch(new RegExp(`^${id}\n`));
    const after = await readonce(['ask', id, question]);
    expect(after).toMatchObject({ status: 0, stdout: before.stdout });
    expect((await readonce(['import', file])).stdout).toContain('it was stored already');
  });

  it('look after the data folder while the server uses it', async () => {
    const verify = await readonce(['store', 'verify', '--data', workspace.data]);
    expect(verify).toMatchObject({ status: 0, stderr: '' });
    expect(verify.stdout).toMatch(/contexts are intact/);
    const stats = await readonce(['store', 'stats', '--data', workspace.data, '--json']);
    expect(JSON.parse(stats.stdout)).toMatchObject({ damaged: 0, quarantined: { contexts: 0 } });
  });

  it("end with status 1 and the problem's detail on stderr", async () => {
    const unknown = await readonce(['ask', `ctx_${'0'.repeat(40)}`, 'Who?']);
    expect(unknown).toMatchObject({ status: 1, stdout: '' });
    expect(unknown.stderr).toMatch(/^readonce ask: Expected the id of a stored context/);
  });
});

describe('serve', () => {
  function serve(flags: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Finished> {
    const data = join(workspace.folder, 'other-data');
    return runProgram(['serve', '--port', '0', '--data', data, ...flags], {
      env: { ...workspace.env, ...env },
    });
  }

  it('ends with status 2 for a wrong setting and names it', async () => {
    const finished = await serve([], { READONCE_POOL_BYTES: 'much' });
    expect(finished).toMatchObject({ status: 2, stdout: '' });
    expect(finished.stderr).toMatch(/READONCE_POOL_BYTES .*"much"/);
  });

  it('refuses to listen for other machines unless told to', async () => {
    const finished = await serve(['--host', '0.0.0.0']);
    expect(finished.status).toBe(2);
    expect(finished.stderr).toContain('--allow-remote');
  });

  it('ends with status 1 when the model cannot be loaded, and says which', async () => {
    const finished = await serve(['--model', join(workspace.folder, 'no-model')]);
    expect(finished).toMatchObject({ status: 1, stdout: '' });
    expect(finished.stderr).toContain('no-model');
  });

  it('ends with status 1 for a device that cannot run, and names the doctor', async () => {
    const finished = await serve(['--device', 'cuda', '--device-index', '63']);
    expect(finished.status).toBe(1);
    expect(finished.stderr).toMatch(/readonce serve: .*cuda.*readonce doctor/);
  });

  it('ends with status 1 when the port is taken', async () => {
    const taken = createServer();
    await new Promise<void>((done) => {
      taken.listen(0, '127.0.0.1', done);
    });
    const address = taken.address();
    const port = typeof address === 'object' && address !== null ? address.port : 0;
    const finished = await serve(['--port', String(port)]);
    taken.close();
    expect(finished).toMatchObject({ status: 1, stdout: '' });
    expect(finished.stderr).toContain(String(port));
  });
});
