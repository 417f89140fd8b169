import type { CompressionSpec } from '../core/compression-spec.ts';
import type { ContextUsage, StoredContext } from '../core/context.ts';
import type { SerializedError } from '../core/errors.ts';
import type { KvLayout } from '../core/kv-layout.ts';
import type { DecodeWeights } from '../model/checkpoint.ts';
import type { LogLevel } from '../observability/logger.ts';
import type { WantedDevice } from '../runtime/choose-device.ts';
import type { DevicePrecision } from '../runtime/cuda/cuda-runtime.ts';

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
  /** `cpu`, or a CUDA device with its name: `cuda:0 NVIDIA H100 80GB HBM3`. */
  readonly device: string;
}

/** What a document's identity is made of, but for the model, which the engine knows. */
export interface IdentifyRequest {
  /** Owner; '' without tenants. */
  readonly tenant: string;
  /** Makes the owner's ids differ from others'; '' for tenant ''. */
  readonly tenantSalt: string;
  /** Trimmed, not empty. */
  readonly document: string;
  readonly instructions: string | undefined;
  readonly compression: CompressionSpec;
}

/** A document whose contexts are looked for, however compressed. */
export type FindRequest = Omit<IdentifyRequest, 'compression'>;

/** What a document would be stored as; computed without running the model. */
export interface Identified {
  readonly id: string;
  readonly prefixTokens: number;
  readonly documentTokens: number;
  /** A stored context of this id whose token ids were compared and are the same. */
  readonly stored: StoredContext | undefined;
}

/** A document to read and store, and what its context begins with. */
export interface IngestRequest extends IdentifyRequest {
  /** When it was asked for, as its client was told. */
  readonly createdAtMs: number;
  readonly usage: Pick<ContextUsage, 'pinned' | 'labels'> & {
    /** The context expires so long after it is stored; null: never. */
    readonly ttlMs: number | null;
  };
}

/** A document that was stored by a request. */
export interface Ingested {
  readonly stored: StoredContext;
  /** It was made from another stored context: the model did not run. */
  readonly derived: boolean;
  /** Another process had stored it by the time it was this one's turn: nothing was done. */
  readonly found: boolean;
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

/** One message of a conversation, as chat APIs have it. */
export interface ChatMessage {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

/** What a query is asked of. */
export type QuerySource =
  | {
      readonly kind: 'context';
      readonly contextId: string;
      /** Use less of the stored cache than was kept; undefined: all of it. */
      readonly keepRatio: number | undefined;
    }
  /** A session's context, and its conversation so far. */
  | { readonly kind: 'session'; readonly sessionId: string }
  /** Nothing stored: document and instructions are prefilled for this query and forgotten. */
  | {
      readonly kind: 'prompt';
      /** The same tokens as a context of this document has; undefined: an ordinary chat. */
      readonly document: string | undefined;
      readonly instructions: string | undefined;
    };

/** A question, every choice made: defaults are the service's. */
export interface EngineQuery {
  readonly source: QuerySource;
  /** Who asks: running tenants share the device evenly. '' without tenants. */
  readonly tenant: string;
  /**
   * User and assistant in turn, a user's message first and last; contents are trimmed and not
   * empty, but for the first one's, if the document stands in its place. The first continues the
   * document's turn.
   */
  readonly turns: readonly ChatMessage[];
  readonly sampling: SamplingOptions;
}

/** Opens a conversation with a stored context. */
export interface SessionRequest {
  readonly contextId: string;
  /** Undefined: all that is stored. */
  readonly keepRatio: number | undefined;
  readonly tenant: string;
  /** The session ends when it was not used for so long. */
  readonly ttlMs: number;
}

/** A conversation whose KV pairs stay in the engine's memory between turns. */
export interface EngineSession {
  /** `ses_…` */
  readonly id: string;
  readonly contextId: string;
  readonly tenant: string;
  readonly keepRatio: number;
  /** Questions answered. */
  readonly turns: number;
  /** Tokens held behind the context. */
  readonly tokens: number;
  readonly createdAtMs: number;
  readonly lastUsedAtMs: number;
  readonly expiresAtMs: number;
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
    /** `none`: nothing stored was used. */
    readonly source: 'device' | 'host' | 'disk' | 'none';
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
  /** As `READONCE_DEVICE`; default `cpu`. */
  readonly device?: WantedDevice | undefined;
  /** As `READONCE_DEVICE_INDEX`; default 0. */
  readonly deviceIndex?: number | undefined;
  /** As `READONCE_DEVICE_PRECISION`; default `f16`. */
  readonly devicePrecision?: DevicePrecision | undefined;
  /** As `READONCE_DECODE_WEIGHTS`; default `f32`. */
  readonly decodeWeights?: DecodeWeights | undefined;
  /** The store's folder; the server has it open too. */
  readonly storeFolder: string;
  /** Quota of the store, bytes. */
  readonly storeMaxBytes: number;
  /** Memory for loaded contexts, bytes; 0: what the runtime chooses. */
  readonly poolBytes: number;
  /** Queries that compute at once; others wait. */
  readonly maxRunningQueries: number;
  /** How long a query may wait for its turn, ms. */
  readonly maxQueryWaitMs: number;
  /** Sessions held at once. */
  readonly maxSessions: number;
  readonly logLevel: LogLevel;
}

/** Server → engine. `requestId` is chosen by the server and never reused. */
export type EngineRequest =
  | { readonly op: 'start'; readonly options: EngineOptions }
  | { readonly op: 'identify'; readonly requestId: number; readonly args: IdentifyRequest }
  | { readonly op: 'find'; readonly requestId: number; readonly args: FindRequest }
  | { readonly op: 'ingest'; readonly requestId: number; readonly args: IngestRequest }
  | { readonly op: 'query'; readonly requestId: number; readonly args: EngineQuery }
  | { readonly op: 'open-session'; readonly requestId: number; readonly args: SessionRequest }
  | { readonly op: 'session'; readonly requestId: number; readonly args: { sessionId: string } }
  | {
      readonly op: 'close-session';
      readonly requestId: number;
      readonly args: { sessionId: string };
    }
  /** Forget a loaded context (it was deleted), and its sessions. */
  | { readonly op: 'unload'; readonly requestId: number; readonly args: { contextId: string } }
  | { readonly op: 'device-memory'; readonly requestId: number; readonly args: null }
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

/** A device's memory at a moment. */
export interface MemoryUse {
  readonly freeBytes: number;
  readonly totalBytes: number;
}

/** How the service sees an engine; `EngineClient` implements it over a child process. */
export interface Engine {
  readonly state: EngineState;
  /** What the running (or last running) engine said of itself; undefined before the first start. */
  readonly info: EngineInfo | undefined;
  /**
   * Names the context a document becomes, and finds it if it is stored. All calls throw
   * `engine_unavailable` (with `retryAfterSeconds`) while the engine is down or when it dies; those
   * that take a signal stop early when it aborts.
   */
  identify(request: IdentifyRequest, signal?: AbortSignal): Promise<Identified>;
  /**
   * The owner's stored contexts of a document, expired ones included, in no particular order. Their
   * token ids were compared and are the same; the model does not run.
   */
  find(request: FindRequest, signal?: AbortSignal): Promise<readonly StoredContext[]>;
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
  /** @throws ReadonceError as `query` does for a context, `overloaded` when there are too many */
  openSession(request: SessionRequest): Promise<EngineSession>;
  /** @throws ReadonceError `not_found` once it has ended, as by a restart of the engine */
  session(sessionId: string): Promise<EngineSession>;
  /** @throws ReadonceError `not_found` */
  closeSession(sessionId: string): Promise<void>;
  /** Forgets a loaded context and ends its sessions. */
  unload(contextId: string): Promise<void>;
  /** The memory of the model's GPU, whoever uses it; undefined on the CPU. */
  deviceMemory(): Promise<MemoryUse | undefined>;
  close(): Promise<void>;
}
