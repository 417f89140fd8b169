import type { CompressionSpec } from '../core/compression-spec.ts';
import type { ContextUsage, StoredContext } from '../core/context.ts';
import type { SerializedError } from '../core/errors.ts';
import type { LogLevel } from '../observability/logger.ts';

/**
 * What the server process and an engine process say to each other. KV bytes never cross: both open
 * the store. Messages travel over Node's IPC channel with advanced serialization.
 */

/** What the engine says about its model once it is ready. */
export interface EngineInfo {
  readonly modelId: string;
  readonly modelDescription: string;
  readonly fingerprint: string;
  readonly contextLength: number;
  readonly device: string;
}

export interface IdentifyRequest {
  readonly tenant: string;
  /** Trimmed, not empty. */
  readonly document: string;
  readonly instructions: string | undefined;
  readonly compression: CompressionSpec;
}

/** What a document would be stored as; computed without running the model. */
export interface Identified {
  readonly id: string;
  readonly prefixTokens: number;
  readonly documentTokens: number;
  /** A stored context of this id whose token ids were compared and are the same. */
  readonly stored: StoredContext | undefined;
}

export interface IngestRequest extends IdentifyRequest {
  readonly usage: Pick<ContextUsage, 'expiresAtMs' | 'pinned' | 'labels'>;
}

export interface IngestProgress {
  readonly phase: 'prefill' | 'score' | 'persist';
  /** Tokens, or heads while persisting. */
  readonly done: number;
  readonly total: number;
}

export interface SamplingOptions {
  readonly maxTokens: number;
  /** 0 is greedy. */
  readonly temperature: number;
  readonly topP: number;
  /** 0: no limit. */
  readonly topK: number;
  readonly seed: number;
  readonly stop: readonly string[];
}

export interface EngineQuery {
  readonly contextId: string;
  /** Trimmed, not empty. */
  readonly query: string;
  readonly sampling: SamplingOptions;
  /** Use less of the stored cache than was kept; undefined: all of it. */
  readonly keepRatio: number | undefined;
}

export interface EngineAnswer {
  readonly answer: string;
  readonly finishReason: 'stop' | 'length' | 'cancelled';
  readonly usage: {
    readonly contextTokens: number;
    readonly queryTokens: number;
    readonly completionTokens: number;
    readonly prefilledTokens: number;
  };
  readonly cache: {
    readonly source: 'device' | 'host' | 'disk';
    readonly keepRatio: number;
    readonly pairs: number;
    readonly bytes: number;
  };
  readonly timings: {
    /** From the request's arrival at the engine to its first computation. */
    readonly queueMs: number;
    readonly loadMs: number;
    readonly firstTokenMs: number;
    readonly totalMs: number;
    readonly tokensPerSecond: number;
  };
}

/** What an engine process is started with; the first message it gets. */
export interface EngineOptions {
  /** As `READONCE_MODEL`. */
  readonly model: string;
  /** Converted weights and downloads. */
  readonly cacheFolder: string;
  /** The store's folder; the server has it open too. */
  readonly storeFolder: string;
  /** Quota of the store, bytes. */
  readonly storeMaxBytes: number;
  /** Memory for loaded contexts, bytes. */
  readonly poolBytes: number;
  readonly logLevel: LogLevel;
}

/** Server → engine. `requestId` is chosen by the server and never reused. */
export type EngineRequest =
  | { readonly op: 'start'; readonly options: EngineOptions }
  | { readonly op: 'identify'; readonly requestId: number; readonly args: IdentifyRequest }
  | { readonly op: 'ingest'; readonly requestId: number; readonly args: IngestRequest }
  | { readonly op: 'query'; readonly requestId: number; readonly args: EngineQuery }
  /** Forget a loaded context (it was deleted). */
  | { readonly op: 'unload'; readonly requestId: number; readonly args: { contextId: string } }
  | { readonly op: 'cancel'; readonly requestId: number }
  | { readonly op: 'shutdown' };

/** Engine → server. */
export type EngineReply =
  | { readonly kind: 'ready'; readonly info: EngineInfo }
  | { readonly kind: 'failed-to-start'; readonly error: SerializedError }
  | { readonly kind: 'progress'; readonly requestId: number; readonly progress: IngestProgress }
  | { readonly kind: 'text'; readonly requestId: number; readonly text: string }
  | { readonly kind: 'result'; readonly requestId: number; readonly result: unknown }
  | { readonly kind: 'error'; readonly requestId: number; readonly error: SerializedError };

export type EngineState = 'starting' | 'ready' | 'unavailable';

/** How the service sees an engine; `EngineClient` implements it over a child process. */
export interface Engine {
  readonly state: EngineState;
  /** What the running (or last running) engine said of itself; undefined before the first start. */
  readonly info: EngineInfo | undefined;
  /**
   * All calls throw `engine_unavailable` (with `retryAfterSeconds`) while the engine is down or when
   * it dies, and stop early when `signal` aborts.
   */
  identify(request: IdentifyRequest, signal?: AbortSignal): Promise<Identified>;
  ingest(
    request: IngestRequest,
    onProgress: (progress: IngestProgress) => void,
    signal?: AbortSignal,
  ): Promise<StoredContext>;
  /** An aborted query resolves with `finishReason` "cancelled" and what was answered so far. */
  query(
    request: EngineQuery,
    onText: (text: string) => void,
    signal?: AbortSignal,
  ): Promise<EngineAnswer>;
  unload(contextId: string): Promise<void>;
  close(): Promise<void>;
}
