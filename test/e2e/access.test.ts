import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createClient, type ReadonceClient } from '../../src/client/client.ts';
import type { ServerProcess } from '../../src/cli/server-process.ts';
import type { Context } from '../../src/client/types.ts';
import { bearer, testKeys } from '../support/tenants.ts';
import {
  createWorkspace,
  longQuestion,
  observatory,
  questions,
  runProgram,
  startServer,
} from './support.ts';

const workspace = createWorkspace();
const keysFile = join(workspace.folder, 'keys.json');
const question = questions[1] ?? '';
let server: ServerProcess;
let acme: ReadonceClient;
let globex: ReadonceClient;
/** `observatory` at 0.3, of acme. */
let context: Context;

async function start(): Promise<void> {
  server = await startServer(workspace, ['--api-keys-file', keysFile]);
  acme = createClient({ baseUrl: server.url, apiKey: testKeys.acme });
  globex = createClient({ baseUrl: server.url, apiKey: testKeys.globex });
}

beforeAll(async () => {
  const keys = [
    { key: testKeys.acme, tenant: 'acme' },
    { key: testKeys.globex, tenant: 'globex' },
  ];
  writeFileSync(keysFile, JSON.stringify({ keys }), { mode: 0o600 });
  await start();
  context = await acme.put({ document: observatory });
});
afterAll(async () => {
  await server.stop();
  workspace.remove();
});

const at = (keepRatio: number) => ({ document: observatory, compression: { keepRatio } });

describe('two tenants', () => {
  it('never derive from, or find, what the other stored', async () => {
    const theirs = await globex.put(at(0.2));
    expect(theirs).toMatchObject({ reused: false });
    expect(theirs.timings.prefillMs).toBeGreaterThan(0);
    const ours = await acme.put(at(0.2));
    expect(ours).toMatchObject({ reused: true, timings: { prefillMs: 0 } });
    expect(ours.id).not.toBe(theirs.id);
    const same = await globex.put(at(0.3));
    expect(same).toMatchObject({ reused: false });
    expect(same.timings.prefillMs).toBeGreaterThan(0);
    expect(same.id).not.toBe(context.id);
  });

  it('see, ask and delete only their own', async () => {
    expect((await acme.query(context.id, { query: question })).answer).toContain('Ada Finch');
    const unknown = `ctx_${'0'.repeat(40)}`;
    const told = (call: Promise<unknown>) => call.catch((error: Error) => error.message);
    const calls: readonly ((id: string) => Promise<unknown>)[] = [
      (id) => globex.get(id),
      (id) => globex.patch(id, { pinned: true }),
      (id) => globex.query(id, { query: question }),
      (id) => globex.export(id),
      (id) => globex.delete(id),
    ];
    for (const call of calls) {
      await expect(call(context.id)).rejects.toMatchObject({ code: 'not_found' });
      expect(await told(call(context.id))).toBe(await told(call(unknown)));
    }
    expect(await acme.get(context.id)).toMatchObject({ pinned: false });
    const ids = (await globex.list()).data.map(({ id }) => id);
    expect(ids).not.toContain(context.id);
  });

  it('carry contexts over as files', async () => {
    const { id } = await acme.put({ document: 'The gate of the yard is green. Ask Olga Reyes.' });
    const imported = await globex.import(await acme.export(id));
    expect(imported).toMatchObject({ reused: false });
    expect(imported.id).not.toBe(id);
    const query = 'Which colour is the gate?';
    const [ours, theirs] = [
      await acme.query(id, { query }),
      await globex.query(imported.id, { query }),
    ];
    expect(theirs.answer).toBe(ours.answer);
  });

  it('keep their ids when the server starts again', async () => {
    await server.stop();
    await start();
    expect(await acme.put(at(0.3))).toMatchObject({ id: context.id, reused: true });
  });
});

describe('a deadline', () => {
  const send = (path: string, value: object, timeoutMs: number) =>
    fetch(`${server.url}${path}`, {
      method: path === '/contexts' ? 'PUT' : 'POST',
      headers: {
        'Content-Type': 'application/json',
        'X-Request-Timeout-Ms': String(timeoutMs),
        ...bearer(testKeys.acme),
      },
      body: JSON.stringify(value),
    });

  it('stops an answer that takes longer, and the engine goes on', async () => {
    const value = { query: longQuestion, maxTokens: 1000 };
    const late = await send(`/contexts/${context.id}/query`, value, 20);
    expect(late.status).toBe(504);
    expect(await late.json()).toMatchObject({ code: 'deadline_exceeded' });
    expect((await acme.query(context.id, { query: question })).answer).toContain('Ada Finch');
  });

  it('ends the wait for an ingestion, which goes on', async () => {
    const document = `${observatory}\n\n${observatory.replaceAll('Denby', 'Ashby')}`;
    const late = await send('/contexts', { document }, 20);
    expect(late.status).toBe(504);
    // It may have passed before there was an ingestion to go on.
    expect(await acme.put({ document })).toMatchObject({ status: 'ready' });
  });
});

describe('the command line', () => {
  const readonce = (args: readonly string[], env: NodeJS.ProcessEnv = {}) =>
    runProgram(args, { env: { ...workspace.env, READONCE_URL: server.url, ...env } });

  it('sends the key of READONCE_API_KEY or --api-key', async () => {
    const byVariable = await readonce(['ls'], { READONCE_API_KEY: testKeys.acme });
    expect(byVariable).toMatchObject({ status: 0, stderr: '' });
    expect(byVariable.stdout).toContain(context.id);
    const byFlag = await readonce(['ls', '--api-key', testKeys.globex]);
    expect(byFlag.status).toBe(0);
    expect(byFlag.stdout).not.toContain(context.id);
  });

  it('says that a key is needed, and repeats none', async () => {
    const without = await readonce(['ls']);
    expect(without).toMatchObject({ status: 1, stdout: '' });
    expect(without.stderr).toContain('Authorization: Bearer');
    const wrong = await readonce(['ls', '--api-key', 'wrong-key-0123456789']);
    expect(wrong.stderr).toBe(without.stderr);
  });

  it('does not serve with keys that cannot be read', async () => {
    const path = join(workspace.folder, 'bad.json');
    writeFileSync(path, '{"keys": [{"key": "short-secret", "tenant": "acme"}]}');
    const { status, stderr } = await readonce(['serve', '--port', '0', '--api-keys-file', path]);
    expect(status).toBe(2);
    expect(stderr).toContain('keys.0.key');
    expect(stderr).not.toContain('short-secret');
  });

  it('has logged no key', () => {
    for (const key of Object.values(testKeys)) expect(server.stderr()).not.toContain(key);
  });
});
