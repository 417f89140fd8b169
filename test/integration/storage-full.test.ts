import { execFile, execFileSync } from 'node:child_process';
import { mkdtempSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it, onTestFinished } from 'vitest';
import { openStore, storeFolder } from '../support/storage-harness.ts';

const script = fileURLToPath(new URL('../support/storage-filler.ts', import.meta.url));
const nodeArgs = ['--import', 'tsx', script];
const importScript = fileURLToPath(new URL('../support/import-filler.ts', import.meta.url));
const importArgs = ['--import', 'tsx', importScript];

/** What an import says for whose waiting file there is no room, though for others there is. */
const importRefused = {
  large: 'storage_full',
  small: 'whole',
  contexts: 1,
  unfinished: 0,
  files: ['data.mdb', 'lock.mdb'],
};

async function fillStore(command: string, args: readonly string[]): Promise<unknown> {
  const { stdout } = await promisify(execFile)(command, [...args]);
  return JSON.parse(stdout);
}

/** What a store of about ten megabytes must say of itself, and do. */
async function expectGoodBehaviour(filled: unknown): Promise<void> {
  const { written, ...rest } = filled as { readonly written: number };
  expect(written).toBeGreaterThan(4);
  expect(written).toBeLessThan(12);
  expect(rest).toEqual({
    code: 'storage_full',
    intact: written,
    visible: false,
    goesOn: true,
    unfinished: 0,
  });
}

describe('a disk that is full', () => {
  it('by a limit on file sizes is told, harms nothing, and is used again', async () => {
    const folder = storeFolder();
    const limited = ['-c', `ulimit -f ${10 * 1024}; exec "$@"`, 'bash', process.execPath];
    await expectGoodBehaviour(await fillStore('bash', [...limited, ...nodeArgs, folder]));

    // Without the limit, the store that was full takes more.
    const unlimited = await fillStore(process.execPath, [...nodeArgs, folder]);
    expect(unlimited).toMatchObject({ written: 30, code: 'none', intact: 30 });
  });

  it('while a file waits to be imported is told, and keeps nothing of it', async () => {
    const folder = storeFolder();
    const limited = ['-c', `ulimit -f ${10 * 1024}; exec "$@"`, 'bash', process.execPath];
    expect(await fillStore('bash', [...limited, ...importArgs, folder])).toEqual(importRefused);
    const unlimited = await fillStore(process.execPath, [...importArgs, folder]);
    expect(unlimited).toEqual({ ...importRefused, large: 'whole', contexts: 2 });
  });

  if (!canMount()) return;

  it('by the size of its file system is told to an import, too', async () => {
    const folder = storeFolder();
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=10m', 'tmpfs', folder]);
    onTestFinished(() => void execFileSync('umount', [folder]));
    expect(await fillStore(process.execPath, [...importArgs, folder])).toEqual(importRefused);
  });

  it('by the size of its file system is told as well', async () => {
    const folder = storeFolder();
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=10m', 'tmpfs', folder]);
    onTestFinished(() => void execFileSync('umount', [folder]));
    await expectGoodBehaviour(await fillStore(process.execPath, [...nodeArgs, folder]));

    execFileSync('mount', ['-o', 'remount,size=64m', folder]);
    const store = await openStore({ folder });
    expect(store.stats()).toMatchObject({ damaged: 0, unfinished: 0 });
    await store.close();
    const more = await fillStore(process.execPath, [...nodeArgs, folder]);
    expect(more).toMatchObject({ written: 30, code: 'none', intact: 30 });
  });
});

/** Mounting takes root, and more than some containers give: elsewhere the first test must do. */
function canMount(): boolean {
  const folder = mkdtempSync(join(tmpdir(), 'readonce-mount-'));
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', folder], { stdio: 'ignore' });
    execFileSync('umount', [folder]);
    return true;
  } catch {
    return false;
  } finally {
    rmdirSync(folder);
  }
}
