import { closeSync, fstatSync, openSync, readFileSync } from 'node:fs';
import koffi from 'koffi';
import type { Closeable } from '../core/closeable.ts';
import { assert } from '../core/assert.ts';
import { ReadonceError } from '../core/errors.ts';

/** A file's bytes in memory, read only. */
export interface MappedFile extends Closeable {
  readonly sizeBytes: number;
  /** What the FFI takes as a pointer to the byte at `offsetBytes`. Valid until `close`. */
  pointer(offsetBytes: number): unknown;
  /** Gives the pages back to the system; they are read from the file again when touched. */
  releasePages(): void;
}

/**
 * Maps a file where the system can, so that clean pages can be dropped and are shared between
 * processes; reads it elsewhere (Windows).
 * @throws ReadonceError `internal` if the system refuses
 */
export function mapFile(path: string): MappedFile {
  return process.platform === 'win32' ? readWhole(path) : map(path);
}

function readWhole(path: string): MappedFile {
  const bytes = readFileSync(path);
  return {
    sizeBytes: bytes.length,
    pointer: (offsetBytes) => bytes.subarray(offsetBytes),
    releasePages: () => undefined,
    close: () => undefined,
  };
}

interface Libc {
  readonly mmap: (...args: readonly unknown[]) => unknown;
  readonly munmap: (...args: readonly unknown[]) => unknown;
  readonly madvise: (...args: readonly unknown[]) => unknown;
}

let libc: Libc | undefined;
/** koffi frees libraries that nothing in JS refers to, though their functions are in use. */
let library: unknown;

function loadLibc(): Libc {
  if (libc === undefined) {
    const loaded = koffi.load(process.platform === 'darwin' ? 'libSystem.B.dylib' : 'libc.so.6');
    library = loaded;
    libc = {
      mmap: loaded.func(
        'void *mmap(void *address, size_t length, int protection, int flags, int fd, int64_t offset)',
      ),
      munmap: loaded.func('int munmap(void *address, size_t length)'),
      madvise: loaded.func('int madvise(void *address, size_t length, int advice)'),
    };
  }
  assert(library !== undefined, 'libc stays loaded');
  return libc;
}

function map(path: string): MappedFile {
  const { mmap, munmap, madvise } = loadLibc();
  const [readOnly, shared, start, notNeeded] = [1, 1, 0, 4];
  const descriptor = openSync(path, 'r');
  try {
    const sizeBytes = fstatSync(descriptor).size;
    const pointer = mmap(null, sizeBytes, readOnly, shared, descriptor, start);
    const address = koffi.address(pointer);
    const failed = 0xffff_ffff_ffff_ffffn;
    if (BigInt.asUintN(64, address) === failed) {
      throw new ReadonceError('internal', `Expected to map ${path} but the system refused`);
    }
    let open = true;
    return {
      sizeBytes,
      pointer: (offsetBytes) => address + BigInt(offsetBytes),
      // Advice only: nothing is wrong if the system does not take it.
      releasePages: () => {
        if (open) madvise(pointer, sizeBytes, notNeeded);
      },
      close: () => {
        if (open) munmap(pointer, sizeBytes);
        open = false;
      },
    };
  } finally {
    closeSync(descriptor);
  }
}
