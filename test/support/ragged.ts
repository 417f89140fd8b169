import { defined } from '../../src/core/assert.ts';
import { headCount } from '../../src/core/kv-layout.ts';
import type {
  ContextCache,
  ContextView,
  DenseCache,
  ForwardSlot,
  Runtime,
  Tail,
} from '../../src/runtime/runtime.ts';
import type { NaiveHead } from './naive-decoder.ts';

/** A context cache filled as a loader fills it. */
export function loadContext(runtime: Runtime, heads: readonly NaiveHead[]): ContextCache {
  const lengths = Uint32Array.from(heads, ({ keys }) => keys.length);
  const cache = runtime.createContext(lengths);
  heads.forEach(({ keys, values }, head) => {
    cache.keys(head).set(keys.flat());
    cache.values(head).set(values.flat());
  });
  return cache;
}

/** A context cache that holds every row of a dense one. */
export function fullContext(runtime: Runtime, dense: DenseCache): ContextCache {
  const lengths = new Uint32Array(headCount(runtime.layout)).fill(dense.length);
  const cache = runtime.createContext(lengths);
  for (let head = 0; head < lengths.length; head++) {
    cache.keys(head).set(dense.keys(head, 0, dense.length));
    cache.values(head).set(dense.values(head, 0, dense.length));
  }
  return cache;
}

/** What a request runs on. */
export interface Requested {
  readonly context: ContextView;
  readonly tail: Tail;
}

/** All rows of a context, and a tail of its own. */
export function request(runtime: Runtime, cache: ContextCache): Requested {
  return { context: cache.view(cache.lengths), tail: runtime.createTail() };
}

/** Logits of one request in a call of its own; its tail is closed. */
export function forwardAlone(
  runtime: Runtime,
  parts: Requested,
  call: Pick<ForwardSlot, 'ids' | 'startPosition'>,
): Float32Array {
  const [logits] = runtime.forward([{ ...parts, ...call }]);
  parts.tail.close();
  return defined(logits, 'logits');
}
