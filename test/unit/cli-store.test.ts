import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { runCli } from '../../src/cli/run.ts';
import { openEnvironment } from '../../storage/environment.ts';
import { idBytes } from '../../storage/keys.ts';
import { openContextStore } from '../../storage/open-store.ts';
import { storeFolder } from '../support/storage-harness.ts';
import { sampleContext, sampleId } from '../support/storage-samples.ts';

/** A folder with three contexts, of which one is damaged if asked. */
async function folderOfThree(options: { readonly damaged: boolean }): Promise<string> {
  const folder = storeFolder();
  const store = await openContextStore({ folder });
  for (const seed of [1, 2, 3]) await store.write(sampleContext({ seed }));
  await store.close();
  if (options.damaged) await damage(folder, sampleId(2));
  return folder;
}

/** Changes the last byte of a context's first piece of pairs. */
async function damage(folder: string, id: string): Promise<void> {
  const env = openEnvironment(folder);
  const start = idBytes(id);
  const [key] = Array.from(env.tables.segments.getKeys({ start, limit: 1 }));
  if (key === undefined) throw new Error('Expected a piece to damage.');
  const value = Buffer.from(env.tables.segments.get(key) ?? []);
  const last = value.byteLength - 1;
  value.writeUInt8(value.readUInt8(last) ^ 1, last);
  env.transact(() => env.tables.segments.putSync(key, value));
  await env.close();
}

async function run(...args: readonly string[]) {
  let out = '';
  let err = '';
  const status = await runCli(['store', ...args], {
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

describe('readonce store', () => {
  it('refuses a folder without a store, and makes none', async () => {
    const folder = join(storeFolder(), 'nothing');
    const { status, err } = await run('stats', '--data', folder);
    expect(status).toBe(1);
    expect(err).toContain(folder);
    expect(existsSync(folder)).toBe(false);
  });

  it('explains its commands', async () => {
    expect((await run('--help')).out).toMatch(/stats.*\n.*verify.*\n.*compact.*\n.*gc/);
    expect((await run('verify', '--help')).out).toContain('--quarantine');
  });

  it('tells what the store holds, as a table and as JSON', async () => {
    const folder = await folderOfThree({ damaged: false });
    const table = await run('stats', '--data', folder);
    expect(table.status).toBe(0);
    expect(table.out).toMatch(/^contexts +3 /);
    expect(table.out).toMatch(/quarantined +0/);
    const json = await run('stats', '--data', folder, '--json');
    expect(JSON.parse(json.out)).toMatchObject({ contexts: 3, damaged: 0, unfinished: 0 });
  });

  it('verifies a sound store with status 0', async () => {
    const folder = await folderOfThree({ damaged: false });
    expect(await run('verify', '--data', folder)).toEqual({
      status: 0,
      out: '3 of 3 contexts are intact\n',
      err: '',
    });
  });

  it('names what is damaged and ends with status 1', async () => {
    const folder = await folderOfThree({ damaged: true });
    const { status, out, err } = await run('verify', '--data', folder);
    expect(status).toBe(1);
    expect(out).toContain(sampleId(2));
    expect(out).toContain('2 of 3 contexts are intact\n');
    expect(err).toContain('--quarantine');
    const json = await run('verify', '--data', folder, '--json');
    expect(json.status).toBe(1);
    expect(JSON.parse(json.out)).toMatchObject({
      contexts: 3,
      damaged: [{ id: sampleId(2) }],
      quarantined: false,
    });
  });

  it('moves what is damaged aside with --quarantine, and gc removes it', async () => {
    const folder = await folderOfThree({ damaged: true });
    expect((await run('verify', '--data', folder, '--quarantine')).status).toBe(1);
    expect((await run('verify', '--data', folder)).status).toBe(0);
    const stats = async (): Promise<unknown> =>
      JSON.parse((await run('stats', '--data', folder, '--json')).out);
    const inQuarantine = [{ id: sampleId(2), reason: expect.stringContaining('damaged content') }];
    expect(await stats()).toMatchObject({
      contexts: 2,
      quarantined: { contexts: 1 },
      inQuarantine,
    });
    const table = (await run('stats', '--data', folder)).out;
    expect(table).toMatch(new RegExp(`${sampleId(2)} +damaged content`));
    const kept = await run('gc', '--data', folder);
    expect(kept.out).toMatch(/quarantined +0/);
    const removed = await run('gc', '--data', folder, '--quarantine-days', '0', '--json');
    expect(JSON.parse(removed.out)).toMatchObject({ quarantined: 1 });
    expect(await stats()).toMatchObject({ contexts: 2, quarantined: { contexts: 0 } });
  });

  it('compacts a store that nobody uses, and refuses one that somebody does', async () => {
    const folder = await folderOfThree({ damaged: false });
    const { status, out } = await run('compact', '--data', folder);
    expect(status).toBe(0);
    expect(out).toMatch(/B became .*B\n$/);
    expect((await run('verify', '--data', folder)).out).toBe('3 of 3 contexts are intact\n');
    const store = await openContextStore({ folder });
    const refused = await run('compact', '--data', folder);
    await store.close();
    expect(refused).toMatchObject({ status: 1, out: '' });
    expect(refused.err).toContain(folder);
  });

  it('writes a compacted copy of a store in use with --to', async () => {
    const folder = await folderOfThree({ damaged: false });
    const store = await openContextStore({ folder });
    const copy = join(storeFolder(), 'copy');
    const { status, out } = await run('compact', '--to', copy, '--data', folder, '--json');
    await store.close();
    expect(status).toBe(0);
    expect(Object.keys(JSON.parse(out) as object)).toEqual(['bytesBefore', 'bytesAfter']);
    expect((await run('verify', '--data', copy)).out).toBe('3 of 3 contexts are intact\n');
  });
});
