import { fileURLToPath } from 'node:url';
import type { Checkpoint } from '../../src/model/checkpoint.ts';
import { loadCheckpoint } from '../../src/model/load.ts';

/**
 * Converted weights of the embedded models, shared by all test files and kept between runs: those
 * of `reader` take 538 MB. Processes that convert at once do not disturb each other.
 */
export const modelCache = fileURLToPath(
  new URL('../../node_modules/.cache/readonce-test', import.meta.url),
);

/** An embedded model, from the shared cache. */
export function embeddedCheckpoint(model: 'reader' | 'reader-mini'): Promise<Checkpoint> {
  return loadCheckpoint({ model, cacheFolder: modelCache });
}
