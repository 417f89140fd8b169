import { closeSync, existsSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { ReadonceError } from '../src/core/errors.ts';
import { isCutOff, pageBytes } from './lmdb-pages.ts';

/** The file of a store that holds everything. */
export const dataFile = 'data.mdb';

/** The file in which LMDB keeps who reads and writes; of no value while nobody does. */
export const lockFile = 'lock.mdb';

/** Whether there is a store in a folder. */
export function holdsStore(folder: string): boolean {
  return existsSync(join(folder, dataFile));
}

/** LMDB's magic number and the version of its files, where its first two pages have them. */
const meta = { offset: 24, magic: 0xbeefc0de, version: 2, pages: 2 } as const;

/**
 * Fails if a folder's data file was not made by LMDB, or was cut off. LMDB notices the one, too,
 * but lmdb-js then ends the process, as the system does for the other. Changes nothing.
 * @throws ReadonceError `unsupported`
 */
export function requireLmdbFile(folder: string): void {
  if (!holdsStore(folder)) return;
  const head = Buffer.alloc(meta.pages * pageBytes);
  const file = openSync(join(folder, dataFile), 'r');
  try {
    const bytes = readSync(file, head, 0, head.byteLength, 0);
    // Another process may just have created it.
    if (bytes === 0) return;
    if (bytes < head.byteLength || !isLmdb(head)) {
      throw unusable(folder, `its ${dataFile} is something else, or damaged at its beginning`);
    }
    if (isCutOff(file)) {
      throw unusable(folder, `its ${dataFile} was cut off: pages behind its end are in use`);
    }
  } finally {
    closeSync(file);
  }
}

function unusable(folder: string, reason: string): ReadonceError {
  return new ReadonceError(
    'unsupported',
    `Expected a context store in ${folder} but ${reason}; use another folder, or restore it from ` +
      'a copy',
    { details: { folder } },
  );
}

function isLmdb(head: Buffer): boolean {
  return [0, pageBytes].every(
    (page) =>
      head.readUInt32LE(page + meta.offset) === meta.magic &&
      head.readUInt16LE(page + meta.offset + 4) === meta.version,
  );
}
