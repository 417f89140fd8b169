import { mkdirSync, realpathSync, statSync } from 'node:fs';
import { endianness } from 'node:os';
import { join } from 'node:path';
import { open, type Database, type RootDatabase } from 'lmdb';
import { assert } from '../src/core/assert.ts';
import { ReadonceError } from '../src/core/errors.ts';
import { formatVersion } from '../src/core/identity.ts';
import { dataFile, requireLmdbFile } from './lmdb-file.ts';
import { pageBytes } from './lmdb-pages.ts';
import { uninterrupted } from './threads/exit-guard.ts';

/** Address space for the map, not memory or disk. Ample, so that no process ever has to remap. */
const mapBytes = 2 ** 40;

/** Binary keys, binary values. */
export type Table = Database<Buffer, Buffer>;

/** One consistent view: pass it to every read that belongs together, and end it soon. */
export type Snapshot = ReturnType<Table['useReadTransaction']>;

/** The tables of FORMAT.md. */
export const tableNames = [
  'store',
  'segments',
  'rankings',
  'tokens',
  'catalogue',
  'usage',
  'created',
  'expires',
  'families',
  'unfinished',
  'quarantine',
] as const;

/** A table of FORMAT.md. */
export type TableName = (typeof tableNames)[number];

/**
 * What a commit waits for. `durable`: it is on disk. `ordered`: everything before it is; it may be
 * undone by a crash of the machine, but never without everything after it, and the next commit
 * makes it durable. Costs one sync instead of two.
 */
export type Commit = 'durable' | 'ordered';

/** The LMDB environment of a store. */
export interface Environment {
  readonly folder: string;
  readonly tables: Readonly<Record<TableName, Table>>;
  /** The newest state, other processes' commits included. The caller calls `done()` on it. */
  snapshot(): Snapshot;
  /** Runs `action` in a snapshot. */
  read<T>(action: (snapshot: Snapshot) => T): T;
  /**
   * Runs `action` in a write transaction: all of it happens, or (when it throws) nothing. Blocks
   * while another thread or process writes, and for the commit.
   * @throws ReadonceError `storage_full` when the disk takes no more
   */
  transact<T>(action: () => T, commit?: Commit): T;
  /** Bytes of the pages in use, by LMDB's own count; free pages are not in it. */
  usedBytes(): number;
  /** Bytes of the file. */
  fileBytes(): number;
  /**
   * Writes a compacted copy, as of now, into an empty folder.
   * @throws ReadonceError `storage_full`
   */
  copyTo(folder: string): Promise<void>;
  close(): Promise<void>;
}

/**
 * Opens (or creates) the environment in `folder`. Durable defaults: a commit is a sync to disk.
 * @throws ReadonceError `unsupported`, before anything is changed, when the folder has a store of
 * another format version, or something else in its place
 */
export function openEnvironment(folder: string): Environment {
  assert(endianness() === 'LE', 'stored arrays are little-endian and read in place');
  // Opening writes, or at least takes the lock.
  const { root, tables } = uninterrupted(() => {
    const opened = openRoot(folder);
    return { root: opened, tables: openTables(opened, folder) };
  });
  const snapshot = (): Snapshot => {
    // Lmdb-js keeps a snapshot for the rest of an event-loop turn, past other processes' commits.
    root.resetReadTxn();
    return root.useReadTransaction();
  };
  let closing: Promise<void> | undefined;
  const name = realpathSync(folder);
  openHere.set(name, (openHere.get(name) ?? 0) + 1);
  return {
    folder,
    tables,
    snapshot,
    read(action) {
      const view = snapshot();
      try {
        return action(view);
      } finally {
        view.done();
      }
    },
    transact(action, commit = 'durable') {
      try {
        return uninterrupted(() => root.transactionSync(action, commitFlags[commit]));
      } catch (error) {
        throw asStorageFull(error, folder);
      }
    },
    usedBytes() {
      root.resetReadTxn();
      const { root: main, free } = root.getStats() as RootStats;
      const named = Object.values(tables).map((table) => table.getStats() as TreeStats);
      return [main, free, ...named].reduce((sum, tree) => sum + treePages(tree), 2) * pageBytes;
    },
    fileBytes: () => statSync(join(folder, dataFile)).size,
    async copyTo(target) {
      try {
        await root.backup(target, true);
      } catch (error) {
        throw asStorageFull(error, target);
      }
    },
    close() {
      closing ??= root.close().finally(() => {
        openHere.set(name, (openHere.get(name) ?? 0) - 1);
      });
      return closing;
    },
  };
}

/** How often this process has the store of a folder open. */
const openHere = new Map<string, number>();

/** Whether this process has the store of a folder open. */
export function isOpenHere(folder: string): boolean {
  return (openHere.get(realpathSync(folder)) ?? 0) > 0;
}

/** Lmdb-js's flags for a transaction that can be aborted and is synced, and LMDB's NOMETASYNC. */
const commitFlags: Readonly<Record<Commit, number>> = { durable: 3, ordered: 0x40003 };

function openRoot(folder: string): RootDatabase<Buffer, Buffer> {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  requireLmdbFile(folder);
  return open<Buffer, Buffer>({
    path: folder,
    noSubdir: false,
    mapSize: mapBytes,
    maxDbs: 16,
    pageSize: pageBytes,
    encoding: 'binary',
    keyEncoding: 'binary',
    compression: false,
    // Lmdb-js would return from commits before they are on disk.
    overlappingSync: false,
  });
}

function openTables(
  root: RootDatabase<Buffer, Buffer>,
  folder: string,
): Readonly<Record<TableName, Table>> {
  const openTable = (name: TableName): Table =>
    root.openDB<Buffer, Buffer>({ name, encoding: 'binary', keyEncoding: 'binary' });
  try {
    // Only this table is the same in every version, so nothing else is opened before it agrees.
    requireFormat(root, openTable('store'), folder);
    return Object.fromEntries(tableNames.map((name) => [name, openTable(name)])) as Record<
      TableName,
      Table
    >;
  } catch (error) {
    void root.close();
    throw asStorageFull(error, folder);
  }
}

/** Key of the store's own record: its format version, a little-endian u16. */
const versionKey = Buffer.from('version', 'latin1');

function requireFormat(root: RootDatabase<Buffer, Buffer>, store: Table, folder: string): void {
  const ours = Buffer.alloc(2);
  ours.writeUInt16LE(formatVersion);
  const found = root.transactionSync(() => {
    const value = store.get(versionKey);
    if (value === undefined) store.putSync(versionKey, ours);
    return value ?? ours;
  });
  if (found.equals(ours)) return;
  const version = found.byteLength === 2 ? found.readUInt16LE() : `0x${found.toString('hex')}`;
  throw new ReadonceError(
    'unsupported',
    `Expected a store of format version ${formatVersion} in ${folder} but got ${version}; use the ` +
      `release that wrote it, or another folder`,
    { details: { folder, expected: formatVersion, found: version } },
  );
}

interface TreeStats {
  readonly treeBranchPageCount: number;
  readonly treeLeafPageCount: number;
  readonly overflowPages: number;
}

interface RootStats {
  readonly root: TreeStats;
  readonly free: TreeStats;
}

function treePages(tree: TreeStats): number {
  return tree.treeBranchPageCount + tree.treeLeafPageCount + tree.overflowPages;
}

/**
 * What the system says when a write finds no room: EIO (LMDB's word for a short write), EFBIG,
 * ENOSPC, EDQUOT, MDB_MAP_FULL.
 */
const noRoomCodes: ReadonlySet<unknown> = new Set([5, 27, 28, 122, -30792]);

function asStorageFull(error: unknown, folder: string): unknown {
  if (error instanceof ReadonceError || !(error instanceof Error) || !('code' in error))
    return error;
  if (!noRoomCodes.has(error.code)) return error;
  return new ReadonceError(
    'storage_full',
    `Expected room for the context store but got "${error.message}" from the disk; free space or ` +
      `remove contexts`,
    { cause: error, details: { folder, code: error.code } },
  );
}
