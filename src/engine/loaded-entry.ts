import type { ContextRecord } from '../core/context.ts';
import type { ContextCache, ContextView } from '../runtime/runtime.ts';
import type { RowFilling } from './row-filling.ts';

/** The rows of a context that queries of one keepRatio see. */
export interface SeenRows {
  readonly lengths: Uint32Array;
  readonly view: ContextView;
  /** Queries that see it. */
  users: number;
}

/** A context that is loaded, or is being loaded. */
export interface Entry {
  readonly record: ContextRecord;
  readonly cache: ContextCache;
  /** What queries see, by keepRatio, of those that were asked for. */
  readonly seen: Map<number, SeenRows>;
  /** Rows of each head, by keepRatio, for those who come while it is being filled. */
  readonly lengths: Map<number, Uint32Array>;
  /** Queries that use it. */
  users: number;
  /** Set while rows are read into it, and when that has failed: nobody may see any then. */
  filling: RowFilling | undefined;
}

/** Ratios whose rows a context remembers: more than its users will ask for, usually. */
const rememberedRatios = 16;

/**
 * What queries of a keepRatio see; remembered with the entry.
 * @param lengths rows of each head at this keepRatio, which are loaded
 * @throws ReadonceError `out_of_memory` if loading them could not be finished
 */
export function seenRows(entry: Entry, keepRatio: number, lengths: Uint32Array): SeenRows {
  const known = entry.seen.get(keepRatio);
  if (known !== undefined) return known;
  for (const [ratio, { users, view }] of entry.seen) {
    if (entry.seen.size < rememberedRatios) break;
    if (users > 0) continue;
    view.close();
    entry.seen.delete(ratio);
  }
  const seen = { lengths, view: entry.cache.view(lengths), users: 0 };
  entry.seen.set(keepRatio, seen);
  return seen;
}

/** Remembers how many rows of each head there are at a keepRatio. */
export function rememberLengths(entry: Entry, keepRatio: number, lengths: Uint32Array): void {
  const { lengths: known } = entry;
  known.delete(keepRatio);
  known.set(keepRatio, lengths);
  const [oldest] = known.keys();
  if (known.size > rememberedRatios && oldest !== undefined) known.delete(oldest);
}

/** Bytes of memory that contexts hold. */
export function sizeOf(entries: readonly Entry[]): number {
  return entries.reduce((sum, { cache }) => sum + cache.sizeBytes, 0);
}

/** Whether a cache has, or will have once it is filled, at least so many rows in each head. */
export function covers({ lengths }: ContextCache, needed: Uint32Array): boolean {
  return needed.every((length, head) => length <= (lengths[head] as number));
}
