import { closeSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import koffi from 'koffi';
import { ReadonceError } from '../src/core/errors.ts';
import { isOpenHere } from './environment.ts';
import { lockFile } from './lmdb-file.ts';

/** A store's folder that no other process can use until `end` is called. */
export interface SoleUse {
  /**
   * Makes what LMDB's lock file says invalid: to be called before the data file is replaced. The
   * next to open the store alone begins it anew; should this process die before it has done so
   * itself, a process that was waiting meanwhile fails instead of believing it.
   */
  invalidateLockFile(): void;
  /** This process, too, must have closed the store. */
  end(): void;
}

/**
 * Keeps others from opening the store in `folder`: they wait. Every process that has an LMDB
 * environment open holds a shared lock on the first byte of its lock file; this takes the exclusive
 * one. Its own LMDB may open and close the store once: to close a file takes away all locks that a
 * process has on it.
 * @throws ReadonceError `conflict` if a process has it open; `unsupported` elsewhere than on Linux
 */
export function takeSoleUse(folder: string): SoleUse {
  if (process.platform !== 'linux') {
    throw new ReadonceError(
      'unsupported',
      `Expected Linux, to be sure that nobody uses the store, but got ${process.platform}; stop ` +
        'every process, write a compacted copy to another folder and use that one',
    );
  }
  if (isOpenHere(folder)) throw inUse(folder);
  const path = join(folder, lockFile);
  closeSync(openSync(path, 'a', 0o600));
  const descriptor = openSync(path, 'r+');
  if (!lockFirstByte(descriptor)) {
    closeSync(descriptor);
    throw inUse(folder);
  }
  return {
    invalidateLockFile: () =>
      void writeSync(descriptor, Buffer.alloc(magicBytes), 0, magicBytes, 0),
    end: () => closeSync(descriptor),
  };
}

/** Bytes of the magic number that LMDB's lock file begins with. */
const magicBytes = 4;

function inUse(folder: string): ReadonceError {
  return new ReadonceError(
    'conflict',
    `Expected a store that nobody uses but ${folder} is open in some process; stop it first`,
    { details: { folder } },
  );
}

/** `struct flock` of 64-bit Linux. */
const flock = koffi.struct('flock', {
  l_type: 'int16_t',
  l_whence: 'int16_t',
  l_start: 'int64_t',
  l_len: 'int64_t',
  l_pid: 'int32_t',
});

/** Of fcntl.h. */
const [setLock, writeLock, fromStart] = [6, 1, 0];

/** Takes the lock, or returns false when another process holds one. */
function lockFirstByte(descriptor: number): boolean {
  const libc = koffi.load('libc.so.6');
  const fcntl = libc.func('fcntl', 'int', ['int', 'int', koffi.pointer(flock)]);
  const lock = { l_type: writeLock, l_whence: fromStart, l_start: 0, l_len: 1, l_pid: 0 };
  return fcntl(descriptor, setLock, lock) === 0;
}
