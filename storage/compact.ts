import { closeSync, fsyncSync, linkSync, mkdirSync, openSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { ReadonceError } from '../src/core/errors.ts';
import { openEnvironment, type Environment } from './environment.ts';
import { dataFile, holdsStore, requireLmdbFile } from './lmdb-file.ts';
import { takeSoleUse } from './sole-use.ts';

/** See `ContextStore.compactTo`. */
export async function copyCompacted(env: Environment, folder: string): Promise<void> {
  if (holdsStore(folder)) {
    throw new ReadonceError(
      'conflict',
      `Expected a folder without a store but ${folder} has one; name another`,
      { details: { folder } },
    );
  }
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  try {
    await env.copyTo(folder);
    syncToDisk(join(folder, dataFile));
    syncToDisk(folder);
  } catch (error) {
    rmSync(join(folder, dataFile), { force: true });
    throw error;
  }
}

/** What compacting did to the data file. */
export interface Compaction {
  readonly bytesBefore: number;
  readonly bytesAfter: number;
}

/**
 * Compacts the store in `folder`, which nobody may have open: others wait to open it until it is
 * done. The data file is replaced at once by a copy that is complete and on disk, so whatever
 * happens meanwhile, one or the other is there. Needs room for the copy.
 * @throws ReadonceError `not_found` if there is no store, `conflict` if it is open in some process,
 * `storage_full`, `unsupported` on systems other than Linux, and for other format versions
 */
export async function compactStore(folder: string): Promise<Compaction> {
  if (!holdsStore(folder)) {
    throw new ReadonceError('not_found', `Expected a store in ${folder} but there is none`, {
      details: { folder },
    });
  }
  requireLmdbFile(folder);
  const sole = takeSoleUse(folder);
  const work = join(folder, workFolder);
  try {
    removeLeftCompaction(folder);
    const bytesBefore = await copyLinked(folder, work);
    sole.invalidateLockFile();
    renameSync(join(work, 'target', dataFile), join(folder, dataFile));
    syncToDisk(folder);
    // LMDB begins the lock file anew, before anyone else sees it.
    const env = openEnvironment(folder);
    const bytesAfter = env.fileBytes();
    await env.close();
    return { bytesBefore, bytesAfter };
  } finally {
    removeLeftCompaction(folder);
    sole.end();
  }
}

/** In a store's folder: what a compaction works in. */
const workFolder = 'compaction';

/**
 * Removes what a compaction left that was interrupted: half a copy, or all of the old file. Call
 * with the store open, or in sole use: then none goes on.
 */
export function removeLeftCompaction(folder: string): void {
  rmSync(join(folder, workFolder), { recursive: true, force: true });
}

/**
 * Writes a compacted copy to `work/target`; returns how large the file is that it was made from.
 * LMDB opens that file by another name, since it would wait for the lock of its own.
 */
async function copyLinked(folder: string, work: string): Promise<number> {
  const source = join(work, 'source');
  mkdirSync(source, { recursive: true, mode: 0o700 });
  linkSync(join(folder, dataFile), join(source, dataFile));
  const env = openEnvironment(source);
  try {
    await copyCompacted(env, join(work, 'target'));
    return env.fileBytes();
  } finally {
    await env.close();
  }
}

function syncToDisk(path: string): void {
  const descriptor = openSync(path, 'r');
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}
