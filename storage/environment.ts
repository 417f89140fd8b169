import { mkdirSync } from 'node:fs';
import { endianness } from 'node:os';
import { open, type Database } from 'lmdb';
import { assert } from '../src/core/assert.ts';
import { ReadonceError } from '../src/core/errors.ts';

/** Bytes of an LMDB page; all figures in FORMAT.md are for this size. */
export const pageBytes = 4096;

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
  'unfinished',
] as const;

/** A table of FORMAT.md. */
export type TableName = (typeof tableNames)[number];

/** The LMDB environment of a store. */
export interface Environment {
  readonly folder: string;
  readonly tables: Readonly<Record<TableName, Table>>;
  /** The newest state, other processes' commits included. The caller calls `done()` on it. */
  snapshot(): Snapshot;
  /** Runs `action` in a snapshot. */
  read<T>(action: (snapshot: Snapshot) => T): T;
  /**
   * Runs `action` in a write transaction: all of it happens, durably, or (when it throws) nothing.
   * Blocks while another thread or process writes, and for the sync to disk.
   * @throws ReadonceError `storage_full` when the disk takes no more
   */
  transact<T>(action: () => T): T;
  /** Bytes of the pages in use, by LMDB's own count; free pages are not in it. */
  usedBytes(): number;
  close(): Promise<void>;
}

/** Opens (or creates) the environment in `folder`. Durable defaults: a commit is a sync to disk. */
export function openEnvironment(folder: string): Environment {
  assert(endianness() === 'LE', 'stored arrays are little-endian and read in place');
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const root = open<Buffer, Buffer>({
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
  const openTable = (name: TableName): Table =>
    root.openDB<Buffer, Buffer>({ name, encoding: 'binary', keyEncoding: 'binary' });
  const tables: Record<TableName, Table> = {
    store: openTable('store'),
    segments: openTable('segments'),
    rankings: openTable('rankings'),
    tokens: openTable('tokens'),
    catalogue: openTable('catalogue'),
    usage: openTable('usage'),
    created: openTable('created'),
    unfinished: openTable('unfinished'),
  };
  const snapshot = (): Snapshot => {
    // Lmdb-js keeps a snapshot for the rest of an event-loop turn, past other processes' commits.
    root.resetReadTxn();
    return root.useReadTransaction();
  };
  let closing: Promise<void> | undefined;
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
    transact(action) {
      try {
        return root.transactionSync(action);
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
    close() {
      closing ??= root.close();
      return closing;
    },
  };
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
