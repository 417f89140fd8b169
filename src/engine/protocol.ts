import type { CompressionSpec } from '../core/compression-spec.ts';
import type { ContextUsage, StoredContext } from '../core/context.ts';
import type { SerializedError } from '../core/errors.ts';
import type { KvLayout } from '../core/kv-layout.ts';
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
  /** Shape of the model's KV cache. */
  readonly layout: KvLayout;
  readonly device: string;
}

/** What a document's identity is made of, but for the model, which the engine knows. */
export interface IdentifyRequest {
  /** Owner; '' without tenants. */
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

/** A document to read and store, and the usage that its context begins with. */
export interface IngestRequest extends IdentifyRequest {
  readonly usage: Pick<ContextUsage, 'expiresAtMs' | 'pinned' | 'labels'>;
}

/** A document that was stored by a request. */
export interface Ingested {
  readonly stored: StoredContext;
  /** It was made from another stored context: the model did not run. */
  readonly derived: boolean;
}

/**
 * How far an ingestion is. Methods that do not reconstruct skip `score`; a derivation has `persist`
 * only.
 */
export interface IngestProgress {
  readonly phase: 'prefill' | 'score' | 'persist';
  /** Tokens, or heads while persisting. */
  readonly done: number;
  readonly total: number;
}

/** How tokens are chosen (see `createSampler`), and when the answer ends at the latest. */
export interface SamplingOptions {
  /** At least 1. */
  readonly maxTokens: number;
  /** 0 is greedy; never negative. */
  readonly temperature: number;
  /** [0, 1]; 1: no limit. */
  readonly topP: number;
  /** 0: no limit. */
  readonly topK: number;
  /** The same seed draws the same tokens from the same logits. */
  readonly seed: number;
  /** The answer ends before the first of these. */
  readonly stop: readonly string[];
}

/** A question to a stored context, every choice made: defaults are the service's. */
export interface EngineQuery {
  readonly contextId: string;
  /** Trimmed, not empty. */
  readonly query: string;
  readonly sampling: SamplingOptions;
  /** Use less of the stored cache than was kept; undefined: all of it. */
  readonly keepRatio: number | undefined;
}

/** An answer and what it took; durations are milliseconds. */
export interface EngineAnswer {
  readonly answer: string;
  readonly finishReason: 'stop' | 'length' | 'cancelled';
  readonly usage: {
    /** The document's tokens. */
    readonly contextTokens: number;
    /** The question's tokens, with the template around it. */
    readonly queryTokens: number;
    /** Without the end token. */
    readonly completionTokens: number;
    /** Tokens whose KV pairs are computed for this query: never the document's. */
    readonly prefilledTokens: number;
  };
  readonly cache: {
    readonly source: 'device' | 'host' | 'disk';
    readonly keepRatio: number;
    /** Pairs answered from, all heads together. */
    readonly pairs: number;
    /** What these pairs take in the store. */
    readonly bytes: number;
  };
  readonly timings: {
    /** From the request's arrival at the engine to its first computation. */
    readonly queueMs: number;
    readonly loadMs: number;
    /** From arrival, as `totalMs`. */
    readonly firstTokenMs: number;
    readonly totalMs: number;
    /** After the first token; 0 if none followed. */
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

/** `unavailable`: the process has ended. It is restarted, unless it never came up or was closed. */
export type EngineState = 'starting' | 'ready' | 'unavailable';

/** How the service sees an engine; `EngineClient` implements it over a child process. */
export interface Engine {
  readonly state: EngineState;
  /** What the running (or last running) engine said of itself; undefined before the first start. */
  readonly info: EngineInfo | undefined;
  /**
   * All calls throw `engine_unavailable` (with `retryAfterSeconds`) while the engine is down or
   * when it dies, and stop early when `signal` aborts.
   */
  identify(request: IdentifyRequest, signal?: AbortSignal): Promise<Identified>;
  /**
   * Stores a document: derived from a stored context that has all its pairs, if there is one, else
   * read by the model.
   */
  ingest(
    request: IngestRequest,
    onProgress: (progress: IngestProgress) => void,
    signal?: AbortSignal,
  ): Promise<Ingested>;
  /** An aborted query resolves with `finishReason` "cancelled" and what was answered so far. */
  query(
    request: EngineQuery,
    onText: (text: string) => void,
    signal?: AbortSignal,
  ): Promise<EngineAnswer>;
  unload(contextId: string): Promise<void>;
  close(): Promise<void>;
}
