import { headCount } from '../core/kv-layout.ts';
import {
  firstTokens,
  type ContextCache,
  type DenseCache,
  type Runtime,
} from '../runtime/runtime.ts';
import type { LoadedContext, LoadedContexts } from './loaded-contexts.ts';
import type { Scheduler } from './scheduler.ts';

/** What reading a prompt needs of an engine. */
export interface PromptDependencies {
  readonly runtime: Runtime;
  readonly loaded: LoadedContexts;
  readonly scheduler: Scheduler;
  /** Tokens of one piece of work. */
  readonly sliceTokens: number;
}

/** A prompt of which nothing is stored. */
export interface Prompt {
  /** At least two. */
  readonly ids: Int32Array;
  /** Rows for the answer. */
  readonly tailTokens: number;
  readonly signal: AbortSignal;
}

/** A prompt's beginning as a context of its own, for one query. */
export interface ReadPrompt {
  readonly context: LoadedContext;
  /** The prompt's last tokens, which the context does not hold: the query's to compute. */
  readonly ids: Int32Array;
  /** Forgets the context's pairs, once it is released. */
  close(): void;
}

/** Documents to be stored are read one after another, since each holds a dense cache. */
export const readingQueue = 'ingestions';

/** So are prompts, but beside documents: somebody waits for the answer. */
export const promptQueue = 'prompts';

/**
 * Prefills all but the end of a prompt. Callers take turns in `promptQueue`. Every pair is kept,
 * in float32, and nothing is stored.
 * @throws ReadonceError `out_of_memory`, `overloaded`; the signal's reason
 */
export async function readPrompt(
  dependencies: PromptDependencies,
  { ids, tailTokens, signal }: Prompt,
): Promise<ReadPrompt> {
  const { loaded, runtime } = dependencies;
  const end = ids.length - Math.min(firstTokens, ids.length - 1);
  let cache: ContextCache | undefined;
  const context = loaded.borrow(ids.length + tailTokens, () => {
    const heads = headCount(runtime.layout);
    cache = runtime.createContext(new Uint32Array(heads).fill(end));
    return cache.view(cache.lengths);
  });
  const close = (): void => cache?.close();
  try {
    await prefillInto(dependencies, cache, { ids: ids.subarray(0, end), signal });
    return { context, ids: ids.subarray(end), close };
  } catch (error) {
    loaded.release(context);
    close();
    throw error;
  }
}

async function prefillInto(
  { runtime, scheduler, sliceTokens }: PromptDependencies,
  cache: ContextCache | undefined,
  { ids, signal }: { readonly ids: Int32Array; readonly signal: AbortSignal },
): Promise<void> {
  const dense = runtime.createDense(ids.length);
  try {
    for (let start = 0; start < ids.length; start += sliceTokens) {
      const slice = ids.subarray(start, start + sliceTokens);
      for (const piece of runtime.prefill(dense, slice)) await scheduler.piece(piece, signal);
    }
    if (cache !== undefined) copyRows(dense, cache);
  } finally {
    dense.close();
  }
}

function copyRows(dense: DenseCache, cache: ContextCache): void {
  for (const [head, length] of cache.lengths.entries()) {
    cache.keys(head).set(dense.keys(head, 0, length));
    cache.values(head).set(dense.values(head, 0, length));
  }
}
