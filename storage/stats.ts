import type { StoreStats } from './context-store.ts';
import type { Environment } from './environment.ts';
import { readFootprints } from './footprints.ts';
import { readQuarantine } from './quarantine-records.ts';
import { markedGenerations } from './unfinished.ts';

/** See `ContextStore.stats`. Reads every catalogue record, no piece. */
export function storeStats(env: Environment): StoreStats {
  const quarantined = readQuarantine(env);
  const footprints = readFootprints(env);
  const unfinished = env.read((snapshot) => markedGenerations(env, { snapshot }).length);
  const usedBytes = env.usedBytes();
  const fileBytes = env.fileBytes();
  return {
    contexts: footprints.intact.length,
    contextBytes: footprints.intact.reduce((sum, { diskBytes }) => sum + diskBytes, 0),
    damaged: footprints.damaged,
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
