import { randomUUID } from 'node:crypto';
import { readSync } from 'node:fs';
import { open, unlink, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { assert } from '../../src/core/assert.ts';
import { ReadonceError } from '../../src/core/errors.ts';

/**
 * A temporary file that has no name: when its process ends, however it ends, its bytes are free
 * again.
 */
export class Spool {
  readonly #file: FileHandle;
  #sizeBytes = 0;

  private constructor(file: FileHandle) {
    this.#file = file;
  }

  /** @throws ReadonceError `storage_full` */
  static async create(folder: string): Promise<Spool> {
    const path = join(folder, `import-${randomUUID()}.tmp`);
    return withRoom(async () => {
      const file = await open(path, 'wx+', 0o600);
      await unlink(path);
      return new Spool(file);
    });
  }

  /** Where the next bytes go. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** @throws ReadonceError `storage_full` when the disk takes no more */
  async append(bytes: Uint8Array): Promise<void> {
    await withRoom(() => this.#file.writeFile(bytes));
    this.#sizeBytes += bytes.byteLength;
  }

  /** Bytes that were appended before. */
  read(position: number, length: number): Buffer {
    assert(position + length <= this.#sizeBytes, 'only what was written can be read');
    const bytes = Buffer.alloc(length);
    for (let filled = 0; filled < length;) {
      const rest = length - filled;
      const read = readSync(this.#file.fd, bytes, filled, rest, position + filled);
      assert(read > 0, 'a spool keeps what was written');
      filled += read;
    }
    return bytes;
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

const noRoomCodes: ReadonlySet<unknown> = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);

async function withRoom<T>(write: () => Promise<T>): Promise<T> {
  try {
    return await write();
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && noRoomCodes.has(error.code))) throw error;
    throw new ReadonceError(
      'storage_full',
      `Expected room on the store's disk for an imported file but got "${error.message}"; free ` +
        'space and import it again',
      { cause: error, details: { code: error.code } },
    );
  }
}
