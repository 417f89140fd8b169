import type { KeptPairs } from '../compression/budget.ts';
import type { ReconstructionPass, ScoringAccess } from '../compression/method.ts';
import { reconstructionPasses } from '../compression/reconstruction.ts';
import { resolveBudget, resolvePrecision } from '../compression/registry.ts';
import type { Clock } from '../core/clock.ts';
import { concatenate } from '../core/concatenate.ts';
import type { IngestTimings, StoredContext } from '../core/context.ts';
import { headCount } from '../core/kv-layout.ts';
import type { Piecewise } from '../core/piecewise.ts';
import type { Checkpoint } from '../model/checkpoint.ts';
import type { DenseCache, Pieces, Runtime } from '../runtime/runtime.ts';
import type { ContextStore } from '../../storage/context-store.ts';
import { contextWrite } from './context-write.ts';
import type { TokenizedDocument } from './document.ts';
import type { LoadedContexts } from './loaded-contexts.ts';
import type { IngestProgress, IngestRequest } from './protocol.ts';
import { RankedPairs } from './ranked-pairs.ts';
import { runPiecesWithRoom } from './retried-pieces.ts';
import type { Scheduler } from './scheduler.ts';

/** What all ingestions of an engine share. Nothing of it is closed by an ingestion. */
export interface IngestDependencies {
  readonly checkpoint: Checkpoint;
  readonly runtime: Runtime;
  /** Idle contexts give way where there is no memory for a document. */
  readonly loaded: Pick<LoadedContexts, 'withRoom'>;
  readonly store: ContextStore;
  readonly scheduler: Scheduler;
  readonly clock: Clock;
  /**
   * Tokens that go through the model together, prefill or reconstruction (`Runtime.sliceTokens`,
   * except in tests).
   */
  readonly sliceTokens: number;
}

/** One document to read. An abort ends it before its next piece of work, and nothing is stored. */
export interface IngestCall {
  readonly request: IngestRequest;
  /** The request's document, tokenised. */
  readonly document: TokenizedDocument;
  readonly onProgress: (progress: IngestProgress) => void;
  readonly signal: AbortSignal;
}

/**
 * Reads a document once: prefill, reconstruct and score, choose, store.
 * Holds one dense cache while it runs.
 * @throws ReadonceError `context_too_long`, `storage_full`, `out_of_memory`; the signal's reason
 */
export async function ingest(
  dependencies: IngestDependencies,
  call: IngestCall,
): Promise<StoredContext> {
  const { clock, runtime, loaded } = dependencies;
  const startMs = clock.monotonicMs();
  const { document } = call;
  const tokens = document.prefixIds.length + document.documentIds.length;
  const cache = loaded.withRoom(() => runtime.createDense(tokens + longestPass(document)));
  try {
    const run = new Ingestion(dependencies, call, cache);
    const prefillMs = await run.prefill();
    const { kept, scoreMs } = await run.score();
    const persistStartMs = clock.monotonicMs();
    const stored = await run.persist(kept, (persistedMs) => ({
      prefillMs,
      scoreMs,
      persistMs: persistedMs - persistStartMs,
      totalMs: persistedMs - startMs,
    }));
    return stored;
  } finally {
    cache.close();
  }
}

/** Rows that reconstruction passes need behind the document. */
function longestPass({ plan, chunkTokens }: TokenizedDocument): number {
  if (chunkTokens === 0) return 0;
  const lengths = reconstructionPasses(plan).map(
    (pass) => pass.promptIds.length + pass.chunkEnd - pass.chunkStart,
  );
  return Math.max(...lengths);
}

class Ingestion {
  readonly #dependencies: IngestDependencies;
  readonly #call: IngestCall;
  readonly #document: TokenizedDocument;
  readonly #cache: DenseCache;
  /** The model's own time so far, milliseconds. */
  #computeMs = 0;

  constructor(dependencies: IngestDependencies, call: IngestCall, cache: DenseCache) {
    this.#dependencies = dependencies;
    this.#call = call;
    this.#document = call.document;
    this.#cache = cache;
  }

  /** @returns the model's time, milliseconds */
  async prefill(): Promise<number> {
    const { prefixIds, documentIds } = this.#document;
    const ids = concatenate(prefixIds, documentIds);
    await this.#slices('prefill', ids, { done: 0, total: ids.length }, (slice) =>
      this.#dependencies.runtime.prefill(this.#cache, slice),
    );
    return this.#computeMs;
  }

  async score(): Promise<{ readonly kept: KeptPairs; readonly scoreMs: number }> {
    const { method, plan, compression } = this.#document;
    const startMs = this.#computeMs;
    const passed = { done: 0, total: plan.documentIds.length };
    const access: ScoringAccess = {
      ...plan,
      documentKeys: (head) => this.#cache.keys(head, plan.prefixTokens, this.#rows()),
      reconstruct: async (pass) => {
        const scores = await this.#reconstruct(pass, passed);
        passed.done += pass.chunkEnd - pass.chunkStart;
        return scores;
      },
    };
    const scores = await method.score(access);
    const budget = resolveBudget(compression.budget);
    const choice = budget.choose(scores, plan.layout, compression.keepRatio);
    const kept = await this.#piecewise(choice);
    return { kept, scoreMs: this.#computeMs - startMs };
  }

  /** One reconstruction pass, cut into slices; its pairs are forgotten afterwards. */
  async #reconstruct(
    pass: ReconstructionPass,
    passed: { readonly done: number; readonly total: number },
  ): Promise<Float32Array> {
    const { plan } = this.#document;
    const chunk = plan.documentIds.subarray(pass.chunkStart, pass.chunkEnd);
    const scores = new Float32Array(headCount(plan.layout) * chunk.length);
    const passStart = this.#rows();
    const ids = concatenate(pass.promptIds, chunk);
    // Progress counts document tokens: the prompt before them is none.
    const progress = { ...passed, done: passed.done - pass.promptIds.length };
    await this.#slices('score', ids, progress, (slice) =>
      this.#dependencies.runtime.score(this.#cache, {
        ids: slice,
        sinkEnd: plan.prefixTokens,
        chunkStart: plan.prefixTokens + pass.chunkStart,
        chunkEnd: plan.prefixTokens + pass.chunkEnd,
        passStart,
        scores,
      }),
    );
    this.#cache.truncate(passStart);
    return scores;
  }

  persist(kept: KeptPairs, timings: (nowMs: number) => IngestTimings): Promise<StoredContext> {
    const { store, loaded } = this.#dependencies;
    const { request, signal, onProgress } = this.#call;
    const { plan, compression } = this.#document;
    const precision = resolvePrecision(compression.precision);
    const pairs = new RankedPairs(this.#cache, {
      kept,
      prefixTokens: plan.prefixTokens,
      precision,
    });
    const write = contextWrite(this.#dependencies, {
      request,
      document: this.#document,
      lengths: kept.counts.map((count) => plan.prefixTokens + count),
      pairs: (head) => loaded.withRoom(() => pairs.encode(head)),
      ranking: (head) => pairs.ranking(head),
      timings,
      onProgress,
    });
    return store.write(write, signal);
  }

  /** Rows of prefix and document: where reconstruction passes start. */
  #rows(): number {
    return this.#document.plan.prefixTokens + this.#document.documentIds.length;
  }

  /** Does the work, each piece when the device has time. */
  async #piecewise<T>(work: Piecewise<T>): Promise<T> {
    const { scheduler } = this.#dependencies;
    for (;;) {
      const piece = await scheduler.piece(() => work.next(), this.#call.signal);
      if (piece.done === true) return piece.value;
    }
  }

  /** Runs `work` on one slice of `ids` after another, each piece when the device has time. */
  async #slices(
    phase: IngestProgress['phase'],
    ids: Int32Array,
    { done, total }: { readonly done: number; readonly total: number },
    work: (slice: Int32Array) => Pieces,
  ): Promise<void> {
    const { scheduler, clock, loaded, sliceTokens } = this.#dependencies;
    const { signal, onProgress } = this.#call;
    for (let start = 0; start < ids.length; start += sliceTokens) {
      const slice = ids.subarray(start, start + sliceTokens);
      const run = (piece: () => void): Promise<void> =>
        scheduler.piece(() => {
          const startMs = clock.monotonicMs();
          piece();
          this.#computeMs += clock.monotonicMs() - startMs;
        }, signal);
      await runPiecesWithRoom(loaded, () => work(slice), run);
      onProgress({ phase, done: Math.max(0, done + start + slice.length), total });
    }
  }
}
