import {
  firstTokens,
  type ContextCache,
  type ContextView,
  type Pieces,
  type Runtime,
} from '../runtime/runtime.ts';
import type { LoadedContext } from './loaded-context.ts';
import type { LoadedContexts } from './loaded-contexts.ts';
import { runPiecesWithRoom } from './retried-pieces.ts';
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
  /** Forgets the context's pairs, and gives back the memory that was borrowed for them. */
  close(): void;
}

/**
 * Documents to be stored are read one after another, since each holds a dense cache; tenants take
 * turns.
 */
export const readingQueue = 'ingestions';

/** So are prompts, but beside documents: somebody waits for the answer. */
export const promptQueue = 'prompts';

/**
 * Prefills all but the end of a prompt. Callers take turns in `promptQueue`. Every pair is kept,
 * as the model computed it, and nothing is stored.
 * @throws ReadonceError `out_of_memory`, `overloaded`; the signal's reason
 */
export async function readPrompt(
  dependencies: PromptDependencies,
  { ids, tailTokens, signal }: Prompt,
): Promise<ReadPrompt> {
  const { loaded } = dependencies;
  const end = ids.length - Math.min(firstTokens, ids.length - 1);
  const loan = loaded.borrow(ids.length + tailTokens);
  try {
    const cache = await prefilled(dependencies, { ids: ids.subarray(0, end), signal });
    const context = { view: wholeOf(cache), source: 'none' } as const;
    const close = (): void => {
      cache.close();
      loaded.release(loan);
    };
    return { context, ids: ids.subarray(end), close };
  } catch (error) {
    loaded.release(loan);
    throw error;
  }
}

function wholeOf(cache: ContextCache): ContextView {
  try {
    return cache.view(cache.lengths);
  } catch (error) {
    cache.close();
    throw error;
  }
}

async function prefilled(
  { runtime, loaded, scheduler, sliceTokens }: PromptDependencies,
  { ids, signal }: Pick<Prompt, 'ids' | 'signal'>,
): Promise<ContextCache> {
  const dense = loaded.withRoom(() => runtime.createDense(ids.length));
  try {
    for (let start = 0; start < ids.length; start += sliceTokens) {
      const slice = ids.subarray(start, start + sliceTokens);
      const call = (): Pieces => runtime.prefill(dense, slice);
      await runPiecesWithRoom(loaded, call, (piece) => scheduler.piece(piece, signal));
    }
    return loaded.withRoom(() => runtime.contextOf(dense));
  } finally {
    dense.close();
  }
}
