import { defined } from '../../src/core/assert.ts';
import { f32 } from '../../src/compression/precision/f32.ts';
import { headCount } from '../../src/core/kv-layout.ts';
import type { EncodedPairs } from '../../src/core/precision.ts';
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
  heads.forEach((rows, head) => cache.write(head, 0, exactPairs(rows), f32));
  return cache;
}

/** Rows as a store of precision `f32` has them. */
export function exactPairs({ keys, values }: NaiveHead): EncodedPairs {
  const encode = (rows: NaiveHead['keys']): Uint8Array =>
    new Uint8Array(Float32Array.from(rows.flat()).buffer);
  return { rows: keys.length, keys: encode(keys), values: encode(values) };
}

/** A context cache that holds every row of a dense one. */
export function fullContext(runtime: Runtime, dense: DenseCache): ContextCache {
  const lengths = new Uint32Array(headCount(runtime.layout)).fill(dense.length);
  const cache = runtime.createContext(lengths);
  const rows = Uint32Array.from({ length: dense.length }, (_, row) => row);
  for (let head = 0; head < lengths.length; head++) {
    cache.write(head, 0, dense.pairs(head, rows, f32), f32);
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
  const [logits] = forwardTogether(runtime, [{ ...parts, ...call }]);
  parts.tail.close();
  return defined(logits, 'logits');
}

/** The logits of each slot of a call. */
export function forwardTogether(
  runtime: Runtime,
  slots: readonly ForwardSlot[],
): readonly Float32Array[] {
  return runtime.forward(slots).map((logits) => logits.values());
}
