import { headCount } from '../../src/core/kv-layout.ts';
import type { DenseCache, RaggedCache, Runtime } from '../../src/runtime/runtime.ts';
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

/** A ragged cache that holds every row of a dense one. */
export function fullCache(runtime: Runtime, dense: DenseCache, tailCapacity: number): RaggedCache {
  const lengths = new Uint32Array(headCount(runtime.layout)).fill(dense.length);
  const cache = runtime.createRagged(lengths, tailCapacity);
  for (let head = 0; head < lengths.length; head++) {
    cache.keys(head).set(dense.keys(head, 0, dense.length));
    cache.values(head).set(dense.values(head, 0, dense.length));
  }
  return cache;
}
