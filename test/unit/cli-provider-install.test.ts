import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  installProvider,
  isInstalled,
  providerPackage,
  recordFileName,
  removeProvider,
  type InstallOptions,
} from '../../src/cli/provider-install.ts';
import { providerFileNames } from '../../src/runtime/cuda/provider-files.ts';

const files = Object.values(providerFileNames);
const innerFolder = 'package/Plugins/Linux/x64';

let folder: string;
let target: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'readonce-setup-'));
  target = join(folder, 'target');
  mkdirSync(target);
  writeFileSync(join(target, 'libonnxruntime.so.1'), 'the runtime');
});
afterEach(() => rmSync(folder, { recursive: true }));

/** A package with the given files in it, and how to install it. */
function packed(names: readonly string[] = files): InstallOptions {
  const content = join(folder, 'content', innerFolder);
  mkdirSync(content, { recursive: true });
  for (const name of [...names, 'libother.so']) writeFileSync(join(content, name), `its ${name}`);
  const archive = join(folder, 'package.tgz');
  execFileSync('tar', ['-czf', archive, '-C', join(folder, 'content'), 'package']);
  const hash = createHash('sha512').update(readFileSync(archive)).digest('base64');
  const origin = { spec: 'provider@1.0.0', integrity: `sha512-${hash}`, folder: innerFolder };
  return { archive, target, package: origin };
}

function read(name: string): string {
  return readFileSync(join(target, name), 'utf8');
}

describe('installing the provider', () => {
  it('puts its two files and a record beside the runtime, and nothing else', async () => {
    const options = packed();
    expect(await isInstalled(options)).toBe(false);
    await installProvider(options);
    expect(readdirSync(target).sort()).toEqual(
      [...files, 'libonnxruntime.so.1', recordFileName].sort(),
    );
    for (const name of files) expect(read(name)).toBe(`its ${name}`);
    expect(JSON.parse(read(recordFileName))).toEqual({
      package: 'provider@1.0.0',
      integrity: options.package.integrity,
      files: Object.fromEntries(
        files.map((name) => [name, createHash('sha256').update(`its ${name}`).digest('hex')]),
      ),
    });
    expect(await isInstalled(options)).toBe(true);
  });

  it('replaces what lay there before', async () => {
    for (const name of files) writeFileSync(join(target, name), 'old');
    await installProvider(packed());
    for (const name of files) expect(read(name)).toBe(`its ${name}`);
  });

  it('notices what was changed or is another package', async () => {
    const options = packed();
    await installProvider(options);
    const other = { ...options.package, integrity: 'sha512-other' };
    expect(await isInstalled({ ...options, package: other })).toBe(false);
    writeFileSync(join(target, providerFileNames.cuda), 'changed');
    expect(await isInstalled(options)).toBe(false);
    rmSync(join(target, providerFileNames.cuda));
    expect(await isInstalled(options)).toBe(false);
  });

  it.each([
    [
      'an archive that is another than the pinned one',
      () => ({ ...packed(), package: providerPackage }),
    ],
    ['an archive that is not there', () => ({ ...packed(), archive: join(folder, 'none.tgz') })],
    ['an archive without one of the files', () => packed([providerFileNames.cuda])],
  ])('refuses %s, and leaves nothing', async (_, options) => {
    await expect(installProvider(options())).rejects.toMatchObject({ code: 'invalid_argument' });
    expect(readdirSync(target)).toEqual(['libonnxruntime.so.1']);
  });

  it('says so if the folder cannot be written to', async () => {
    const options = { ...packed(), target: join(folder, 'nowhere') };
    await expect(installProvider(options)).rejects.toThrow(/Expected to write to .*nowhere/);
  });
});

describe('removing the provider', () => {
  it('takes away what was installed', async () => {
    await installProvider(packed());
    expect([...(await removeProvider(target))].sort()).toEqual([...files].sort());
    expect(readdirSync(target)).toEqual(['libonnxruntime.so.1']);
    expect(await removeProvider(target)).toEqual([]);
  });

  it('leaves files that it did not put there', async () => {
    writeFileSync(join(target, providerFileNames.cuda), 'put by hand');
    expect(await removeProvider(target)).toEqual([]);
    expect(read(providerFileNames.cuda)).toBe('put by hand');
  });
});
