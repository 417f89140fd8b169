import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream, existsSync, readFileSync } from 'node:fs';
import { mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import { z } from 'zod';
import { ReadonceError } from '../core/errors.ts';
import { packageRoot } from '../model/embedded.ts';
import { providerFileNames } from '../runtime/cuda/provider-files.ts';

/** A package of npm that carries the provider. */
export interface ProviderPackage {
  /** Name and version. */
  readonly spec: string;
  /** As `npm view SPEC dist.integrity` has it. */
  readonly integrity: string;
  /** Folder of the two files in it. */
  readonly folder: string;
}

/**
 * The provider of ONNX Runtime 1.29.0 for CUDA 13, which onnxruntime-node does not bring. A later
 * runtime needs another package.
 */
export const providerPackage: ProviderPackage = {
  spec: 'com.github.asus4.onnxruntime.linux-x64-gpu@0.4.9',
  integrity:
    'sha512-FopIhNE/Ng+v2X65wVc9clPCBCvhvA53Hxo2U0Kf5fGdVsC7iCA+mZ0KLWggcQAj7TIZ6pNidR4AC10g74Xo6w==',
  folder: 'package/Plugins/Linux/x64',
};

/** What was installed, beside it. */
export const recordFileName = 'readonce-cuda-provider.json';

const recordSchema = z.strictObject({
  package: z.string(),
  integrity: z.string(),
  /** SHA-256 by file name. */
  files: z.record(z.string(), z.string()),
});
type InstallRecord = Readonly<z.infer<typeof recordSchema>>;

const fileNames = Object.values(providerFileNames);
const run = promisify(execFile);

/**
 * Downloads the package with npm, from whatever registry it is configured for, into a new folder
 * that is the caller's to remove.
 * @throws ReadonceError `unsupported` with npm's words
 */
export async function fetchArchive({ spec }: ProviderPackage): Promise<{
  readonly folder: string;
  readonly archive: string;
}> {
  const folder = await mkdtemp(join(tmpdir(), 'readonce-cuda-'));
  try {
    const args = ['pack', spec, '--pack-destination', folder, '--ignore-scripts', '--silent'];
    await run('npm', args, { cwd: packageRoot() });
    const archive = (await readdir(folder)).find((name) => name.endsWith('.tgz'));
    if (archive === undefined) throw new Error('npm left no .tgz');
    return { folder, archive: join(folder, archive) };
  } catch (error) {
    await rm(folder, { recursive: true, force: true });
    throw new ReadonceError(
      'unsupported',
      `Expected npm to download ${spec} but it did not: ${reasonOf(error)}. On a machine with a ` +
        `network, run "npm pack ${spec}", carry the file here, and run ` +
        '"npm run setup:cuda -- --from FILE".',
      { cause: error },
    );
  }
}

/** Where the provider comes from and goes to. */
export interface InstallOptions {
  /** A .tgz of the package. */
  readonly archive: string;
  /** ONNX Runtime's folder. */
  readonly target: string;
  readonly package: ProviderPackage;
}

/**
 * Checks an archive and puts the provider's files in their place. Each appears whole or not at all;
 * the record comes last, so that an installation that was cut off is none.
 * @throws ReadonceError `invalid_argument` for another archive, or one without the files;
 * `storage_full` if it cannot be written
 */
export async function installProvider(options: InstallOptions): Promise<void> {
  const { archive, target, package: origin } = options;
  await checkIntegrity(archive, origin);
  // On the same disk, so that a rename is enough.
  const temporary = await mkdtemp(join(target, '.setup-cuda-')).catch(cannotWrite(target));
  try {
    await unpack(archive, temporary, origin);
    const files: Record<string, string> = {};
    for (const name of fileNames) {
      const source = join(temporary, origin.folder, name);
      files[name] = await digest(source, 'sha256', 'hex');
    }
    for (const name of fileNames) {
      await rename(join(temporary, origin.folder, name), join(target, name));
    }
    const record: InstallRecord = { package: origin.spec, integrity: origin.integrity, files };
    const path = join(temporary, recordFileName);
    await writeFile(path, `${JSON.stringify(record, null, 2)}\n`);
    await rename(path, join(target, recordFileName));
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

/** Whether the files are those that this package's installation left. */
export async function isInstalled({
  target,
  package: origin,
}: Omit<InstallOptions, 'archive'>): Promise<boolean> {
  const record = readRecord(target);
  if (record?.integrity !== origin.integrity) return false;
  for (const name of fileNames) {
    const path = join(target, name);
    if (!existsSync(path)) return false;
    if ((await digest(path, 'sha256', 'hex')) !== record.files[name]) return false;
  }
  return true;
}

/** Takes away what `installProvider` put there, and nothing else; returns the files' names. */
export async function removeProvider(target: string): Promise<readonly string[]> {
  if (readRecord(target) === undefined) return [];
  const there = fileNames.filter((name) => existsSync(join(target, name)));
  for (const name of [...there, recordFileName]) await rm(join(target, name), { force: true });
  return there;
}

/** Undefined without a record that can be read. */
function readRecord(target: string): InstallRecord | undefined {
  try {
    return recordSchema.parse(JSON.parse(readFileSync(join(target, recordFileName), 'utf8')));
  } catch {
    return undefined;
  }
}

async function checkIntegrity(archive: string, { spec, integrity }: ProviderPackage) {
  if (!existsSync(archive)) {
    throw new ReadonceError('invalid_argument', `Expected a file but there is no ${archive}.`);
  }
  const found = `sha512-${await digest(archive, 'sha512', 'base64')}`;
  if (found === integrity) return;
  throw new ReadonceError(
    'invalid_argument',
    `Expected ${archive} to be ${spec} with ${integrity} but got ${found}. ` +
      `Fetch it again with "npm pack ${spec}".`,
  );
}

async function unpack(archive: string, folder: string, origin: ProviderPackage): Promise<void> {
  const members = fileNames.map((name) => `${origin.folder}/${name}`);
  try {
    // The files become the caller's, not those of a user of another machine with the same number.
    await run('tar', ['-xzf', archive, '-C', folder, '--no-same-owner', ...members]);
  } catch (error) {
    throw new ReadonceError(
      'invalid_argument',
      `Expected tar to unpack ${fileNames.join(' and ')} from ${archive} but it did not: ` +
        `${reasonOf(error)}.`,
      { cause: error },
    );
  }
}

function cannotWrite(target: string): (error: unknown) => never {
  return (error) => {
    throw new ReadonceError(
      'storage_full',
      `Expected to write to ${target} but got: ${reasonOf(error)}. Run it as the user who ran ` +
        '"npm ci".',
      { cause: error },
    );
  };
}

async function digest(
  path: string,
  algorithm: 'sha256' | 'sha512',
  encoding: 'hex' | 'base64',
): Promise<string> {
  const hash = createHash(algorithm);
  await pipeline(createReadStream(path, { highWaterMark: 2 ** 20 }), hash);
  return hash.digest(encoding);
}

function reasonOf(error: unknown): string {
  const stderr =
    typeof error === 'object' && error !== null && 'stderr' in error ? String(error.stderr) : '';
  const message = error instanceof Error ? error.message : String(error);
  return (stderr.trim() || message).slice(-500);
}
