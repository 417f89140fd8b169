import type { StoreStats } from './context-store.ts';
import type { Environment } from './environment.ts';
import { readQuarantine } from './quarantine-records.ts';
import { readableContexts } from './quota.ts';
import { markedGenerations } from './unfinished.ts';

/** See `ContextStore.stats`. Reads every catalogue record, no piece. */
export function storeStats(env: Environment): StoreStats {
  const quarantined = readQuarantine(env);
  const { readable, catalogued, unfinished } = env.read((snapshot) => ({
    readable: readableContexts(env, snapshot),
    catalogued: env.tables.catalogue.getKeysCount({
      start: Buffer.from([0]),
      transaction: snapshot,
    }),
    unfinished: markedGenerations(env, { snapshot }).length,
  }));
  const usedBytes = env.usedBytes();
  const fileBytes = env.fileBytes();
  return {
    contexts: readable.length,
    contextBytes: readable.reduce((sum, { diskBytes }) => sum + diskBytes, 0),
    damaged: catalogued - readable.length,
    quarantined: {
      contexts: quarantined.length,
      bytes: quarantined.reduce((sum, { bytes }) => sum + bytes, 0),
    },
    unfinished,
    usedBytes,
    freeBytes: Math.max(0, fileBytes - usedBytes),
    fileBytes,
    fragmentation: fileBytes / usedBytes,
  };
}
