import { systemClock, type Clock } from '../src/core/clock.ts';
import { ReadonceError } from '../src/core/errors.ts';
import { formatVersion } from '../src/core/identity.ts';
import { findContext, putUsage } from './catalogue.ts';
import type { ContextStore } from './context-store.ts';
import { openEnvironment, type Environment } from './environment.ts';
import { listContexts } from './list.ts';
import { defaultPieceBytes } from './pieces.ts';
import { makeRoom } from './quota.ts';
import { readPairs, readRanking, readTokenIds } from './reader.ts';
import { removeContext } from './remove.ts';
import { sweepExpired, sweepIndex, sweepUnfinished } from './sweep.ts';
import { writeContext } from './writer.ts';

/** Where the store tells what it did by itself; pino's loggers fit. */
export interface StoreLog {
  info(fields: Readonly<Record<string, unknown>>, message: string): void;
  warn(fields: Readonly<Record<string, unknown>>, message: string): void;
}

/** How a store is opened. */
export interface StoreOptions {
  /** Made if it is not there. Several processes may open it. */
  readonly folder: string;
  /** Quota in bytes of LMDB pages in use; default none. Contexts are removed to keep it. */
  readonly maxBytes?: number | undefined;
  /**
   * Largest value of a piece, header included; default 16 pages to the last byte: small enough to
   * read little too much of a prefix, large enough that checks cost more than look-ups. May change
   * from one opening to the next.
   */
  readonly pieceBytes?: number;
  readonly clock?: Clock;
  readonly log?: StoreLog;
  /** Hears of the payload bytes of each piece of pairs that is read, for metrics. */
  readonly onRead?: (bytes: number) => void;
}

const silentLog: StoreLog = { info: () => undefined, warn: () => undefined };

/**
 * Opens the context store in a folder. Call `sweep` before using it.
 * @throws ReadonceError `unsupported` when the folder has a store of another format version
 */
export async function openContextStore(options: StoreOptions): Promise<ContextStore> {
  const { maxBytes, pieceBytes = defaultPieceBytes, clock = systemClock } = options;
  const { log = silentLog, onRead = () => undefined } = options;
  const env = openEnvironment(options.folder);
  try {
    requireFormat(env);
  } catch (error) {
    await env.close();
    throw error;
  }
  const room = (pages: number): void => {
    sweepUnfinished(env, clock);
    makeRoom({ env, clock, maxBytes, info: log.info.bind(log) }, pages);
  };
  const warn = log.warn.bind(log);
  return {
    get: (id) => env.read((snapshot) => findContext(env, id, snapshot)?.stored),
    list: (listOptions) => listContexts(env, listOptions, warn),
    tokenIds: (id) => readTokenIds(env, id),
    write: (write, signal) =>
      writeContext(
        { env, pieceBytes, nowMs: () => clock.nowMs(), makeRoom: room, warn },
        write,
        signal,
      ),
    readPairs: (id, head, rows) => readPairs(env, { id, head, rows }, onRead),
    readRanking: (id, head) => readRanking(env, id, head),
    update: async (id, change) =>
      env.transact(() => {
        const found = findContext(env, id);
        if (found === undefined) return undefined;
        putUsage(env, id, { ...found.stored.usage, ...change });
        return findContext(env, id)?.stored;
      }),
    delete: async (id) => removeContext(env, clock, id),
    sweep: async () => {
      const removed = sweepUnfinished(env, clock);
      sweepExpired(env, clock);
      sweepIndex(env);
      makeRoom({ env, clock, maxBytes, info: log.info.bind(log) }, 0);
      return removed;
    },
    close: () => env.close(),
  };
}

/** Key of the store's own record: its format version, a little-endian u16. */
const versionKey = Buffer.from('version', 'latin1');

function requireFormat(env: Environment): void {
  const ours = Buffer.alloc(2);
  ours.writeUInt16LE(formatVersion);
  const found = env.transact(() => {
    const value = env.tables.store.get(versionKey);
    if (value === undefined) env.tables.store.putSync(versionKey, ours);
    return value ?? ours;
  });
  if (found.equals(ours)) return;
  throw new ReadonceError(
    'unsupported',
    `Expected a store of format version ${formatVersion} in ${env.folder} but got ` +
      `${found.toString('hex')} (little-endian hex); use the release that wrote it or another folder`,
    { details: { folder: env.folder, expected: formatVersion } },
  );
}
