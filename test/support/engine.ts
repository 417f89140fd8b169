import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { CompressionSpec } from '../../src/core/compression-spec.ts';
import { systemClock, type Clock } from '../../src/core/clock.ts';
import type { StoredContext } from '../../src/core/context.ts';
import { answer, type AnswerCall, type AnswerDependencies } from '../../src/engine/answer.ts';
import { derive } from '../../src/engine/derive.ts';
import { tokenizeDocument } from '../../src/engine/document.ts';
import { ingest, type IngestCall } from '../../src/engine/ingest.ts';
import { KeyedQueue } from '../../src/engine/keyed-queue.ts';
import { LoadedContexts } from '../../src/engine/loaded-contexts.ts';
import type {
  ChatMessage,
  EngineAnswer,
  EngineQuery,
  IngestRequest,
  QuerySource,
  SamplingOptions,
} from '../../src/engine/protocol.ts';
import { Scheduler } from '../../src/engine/scheduler.ts';
import { Sessions } from '../../src/engine/sessions.ts';
import type { Checkpoint } from '../../src/model/checkpoint.ts';
import { createOrtCpuRuntime } from '../../src/runtime/ort/cpu-runtime.ts';
import type { Runtime } from '../../src/runtime/runtime.ts';
import type { ContextStore } from '../../storage/context-store.ts';
import { openContextStore, type StoreOptions } from '../../storage/open-store.ts';

export interface TestEngineOptions {
  readonly checkpoint: Checkpoint;
  /** Default: one that no test fills. */
  readonly poolBytes?: number;
  /** Default: the runtime's, as in the engine process. */
  readonly sliceTokens?: number;
  /** Default: the machine's. */
  readonly clock?: Clock;
  readonly storeOptions?: Pick<StoreOptions, 'pieceBytes' | 'onRead'>;
}

/** More than any test runs into, unless it makes a scheduler of its own. */
const limits = { maxRunning: 16, maxWaitMs: 60_000 };

/** An engine in this process, over a real store in a temporary folder, with its parts in reach. */
export class TestEngine {
  readonly checkpoint: Checkpoint;
  readonly runtime: Runtime;
  readonly scheduler: Scheduler;
  readonly queue = new KeyedQueue();
  /** What sessions expire by. */
  readonly clock: Clock;
  readonly sliceTokens: number;
  /** Contexts that `derive` could not use. */
  readonly unusable: string[] = [];
  readonly #poolBytes: number;
  readonly #storeOptions: StoreOptions;
  #store: ContextStore;
  #loaded: LoadedContexts;
  #sessions: Sessions;

  private constructor(
    { checkpoint, poolBytes = 2 ** 40, sliceTokens, clock = systemClock }: TestEngineOptions,
    parts: { readonly storeOptions: StoreOptions; readonly store: ContextStore },
  ) {
    this.checkpoint = checkpoint;
    this.clock = clock;
    this.runtime = createOrtCpuRuntime(checkpoint, { threads: 2 });
    this.sliceTokens = sliceTokens ?? this.runtime.sliceTokens;
    const withRoom = <T>(call: () => T): T => this.#loaded.withRoom(call);
    this.scheduler = new Scheduler({ runtime: this.runtime, clock, withRoom, ...limits });
    this.#poolBytes = poolBytes;
    this.#storeOptions = parts.storeOptions;
    this.#store = parts.store;
    this.#loaded = this.#createLoaded();
    this.#sessions = this.#createSessions();
  }

  static async open(options: TestEngineOptions): Promise<TestEngine> {
    const folder = mkdtempSync(join(tmpdir(), 'readonce-engine-'));
    const storeOptions = { ...options.storeOptions, folder };
    return new TestEngine(options, { storeOptions, store: await openContextStore(storeOptions) });
  }

  get store(): ContextStore {
    return this.#store;
  }

  get loaded(): LoadedContexts {
    return this.#loaded;
  }

  get sessions(): Sessions {
    return this.#sessions;
  }

  /** Where the store is, for tests that look into it. */
  get folder(): string {
    return this.#storeOptions.folder;
  }

  /** Forgets what is in memory and opens the store anew. */
  async restart(): Promise<void> {
    this.#sessions.close();
    this.#loaded.close();
    await this.#store.close();
    this.#store = await openContextStore(this.#storeOptions);
    this.#loaded = this.#createLoaded();
    this.#sessions = this.#createSessions();
  }

  ingest(document: string, options: IngestOptions = {}): Promise<StoredContext> {
    return ingest(this, this.#ingestCall(document, options));
  }

  /** Like `ingest`, but from a stored context; undefined if there is none. */
  derive(document: string, options: IngestOptions = {}): Promise<StoredContext | undefined> {
    const onUnusable = (contextId: string): void => void this.unusable.push(contextId);
    const { checkpoint, store, clock } = this;
    const parts = { checkpoint, store, clock, onUnusable };
    return derive(parts, this.#ingestCall(document, options));
  }

  answer(contextId: string, options: AnswerOptions = {}): Promise<EngineAnswer> {
    const { query, keepRatio, sampling, onText, signal } = options;
    const { checkpoint = this.checkpoint, source, turns, maxWaitMs = limits.maxWaitMs } = options;
    const asked = engineQuery(contextId, { query, keepRatio, sampling });
    const given = {
      ...(source !== undefined && { source }),
      ...(turns !== undefined && { turns }),
    };
    return answer(Object.assign(this.parts(), { checkpoint, maxWaitMs }), {
      query: { ...asked, ...given },
      onText: onText ?? (() => undefined),
      signal: signal ?? new AbortController().signal,
    });
  }

  /** What answers share. */
  parts(): AnswerDependencies {
    const { checkpoint, runtime, store, scheduler, loaded, sessions, queue, clock } = this;
    const { sliceTokens } = this;
    const { maxWaitMs } = limits;
    return {
      checkpoint,
      runtime,
      store,
      scheduler,
      loaded,
      sessions,
      queue,
      clock,
      sliceTokens,
      maxWaitMs,
    };
  }

  async close(): Promise<void> {
    this.scheduler.close();
    this.#sessions.close();
    this.#loaded.close();
    this.runtime.close();
    await this.#store.close();
    rmSync(this.folder, { recursive: true });
  }

  #ingestCall(document: string, options: IngestOptions): IngestCall {
    const request = ingestRequest(document, options.request);
    return {
      request,
      document: tokenizeDocument(this.checkpoint, request),
      onProgress: options.onProgress ?? (() => undefined),
      signal: options.signal ?? new AbortController().signal,
    };
  }

  #createSessions(): Sessions {
    const { runtime, loaded, clock } = this;
    return new Sessions({ runtime, loaded, clock, maxSessions: 4 });
  }

  #createLoaded(): LoadedContexts {
    const { runtime, store } = this;
    return new LoadedContexts({ runtime, store, poolBytes: this.#poolBytes });
  }
}

export type IngestOptions = Partial<Omit<IngestCall, 'request' | 'document'>> & {
  readonly request?: IngestRequestOptions;
};

export type IngestRequestOptions = Partial<Omit<IngestRequest, 'compression'>> & {
  readonly compression?: Partial<CompressionSpec>;
};

export type AnswerOptions = QueryOptions &
  Partial<Omit<AnswerCall, 'query'>> & {
    /** Instead of the engine's. */
    readonly checkpoint?: Checkpoint;
    /** Instead of the context. */
    readonly source?: QuerySource;
    /** Instead of the query. */
    readonly turns?: readonly ChatMessage[];
    /** How long it may wait for memory; default: longer than any test takes. */
    readonly maxWaitMs?: number;
  };

export interface QueryOptions {
  readonly query?: string | undefined;
  readonly keepRatio?: number | undefined;
  readonly sampling?: Partial<SamplingOptions> | undefined;
}

/** A request of the default compression, unless said otherwise. */
export function ingestRequest(
  document: string,
  { compression, ...rest }: IngestRequestOptions = {},
): IngestRequest {
  return {
    tenant: '',
    tenantSalt: '',
    document,
    instructions: undefined,
    createdAtMs: Date.now(),
    usage: { ttlMs: null, pinned: false, labels: {} },
    ...rest,
    compression: {
      method: 'kvzip',
      keepRatio: 0.3,
      budget: 'global',
      precision: 'f16',
      ...compression,
    },
  };
}

/** A greedy query of a short answer, unless said otherwise. */
export function engineQuery(contextId: string, options: QueryOptions = {}): EngineQuery {
  const { query = 'What is it about?', keepRatio, sampling } = options;
  return {
    source: { kind: 'context', contextId, keepRatio },
    tenant: '',
    turns: [{ role: 'user', content: query }],
    sampling: {
      maxTokens: 8,
      temperature: 0,
      topP: 1,
      topK: 0,
      seed: 1,
      stop: [],
      ...sampling,
    },
  };
}
