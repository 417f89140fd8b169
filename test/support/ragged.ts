import type { RaggedCache, Runtime } from '../../src/runtime/runtime.ts';
import type { NaiveHead } from './naive-decoder.ts';

/** A ragged cache filled as a loader fills it. */
export function loadRagged(
  runtime: Runtime,
  heads: readonly NaiveHead[],
  tailCapacity: number,
): RaggedCache {
  const lengths = Uint32Array.from(heads, ({ keys }) => keys.length);
  const cache = runtime.createRagged(lengths, tailCapacity);
  heads.forEach(({ keys, values }, head) => {
    cache.keys(head).set(keys.flat());
    cache.values(head).set(values.flat());
  });
  return cache;
}
