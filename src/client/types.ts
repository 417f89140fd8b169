import type { CompressionSpec } from '../core/compression-spec.ts';
import type { Fidelity, IngestTimings } from '../core/context.ts';

/** A document to put. What is left out takes the server's default. */
export interface PutRequest {
  readonly document: string;
  /** System text; part of the context, never evicted. */
  readonly instructions?: string;
  /** `keepRatio` in (0, 1]. */
  readonly compression?: Partial<CompressionSpec>;
  /** null: no expiry. */
  readonly ttlSeconds?: number | null;
  readonly pinned?: boolean;
  readonly labels?: Readonly<Record<string, string>>;
}

/** What of a stored context may change. */
export type ContextChange = Pick<PutRequest, 'ttlSeconds' | 'pinned' | 'labels'>;

/** A document that was read once. Sizes are bytes, times RFC 3339. */
export interface Context {
  readonly id: string;
  readonly object: 'context';
  readonly status: 'ingesting' | 'ready' | 'failed';
  /** True when the request computed nothing. */
  readonly reused: boolean;
  readonly model: { readonly id: string; readonly fingerprint: string };
  readonly document: { readonly bytes: number; readonly tokens: number; readonly sha256: string };
  readonly compression: CompressionSpec & { readonly fidelity: Fidelity | null };
  /** `pairs*`: KV pairs of all layers and heads; `fullBytes`: the uncompressed f16 cache. */
  readonly size: {
    readonly pairsTotal: number;
    readonly pairsKept: number;
    readonly fullBytes: number;
    readonly storedBytes: number;
    readonly diskBytes: number;
    readonly compressionFactor: number;
  };
  readonly timings: IngestTimings;
  readonly createdAt: string;
  readonly lastUsedAt: string;
  readonly expiresAt: string | null;
  readonly pinned: boolean;
  readonly labels: Readonly<Record<string, string>>;
}

/** A page of contexts, newest first. */
export interface ContextList {
  readonly object: 'list';
  readonly data: readonly Context[];
  /** Pass it as `cursor` to go on; null on the last page. */
  readonly nextCursor: string | null;
}

/** Which contexts to list. */
export interface ListRequest {
  /** 1 … 100, default 20. */
  readonly limit?: number;
  readonly cursor?: string;
  /** `key:value` */
  readonly label?: string;
}

/** How far an ingestion is: tokens, or heads while persisting. */
export interface Progress {
  readonly phase: 'prefill' | 'score' | 'persist';
  readonly done: number;
  readonly total: number;
}

/** How to answer. What is left out takes the server's default; `temperature` 0 is greedy. */
export interface AnswerOptions {
  readonly maxTokens?: number;
  readonly temperature?: number;
  readonly topP?: number;
  readonly topK?: number;
  readonly seed?: number;
  readonly stop?: readonly string[];
}

/** One turn of a conversation. */
export interface Message {
  readonly role: 'user' | 'assistant';
  readonly content: string;
}

/** A question, or a conversation that ends with one: user and assistant in turn. */
export type QueryRequest = AnswerOptions & {
  /** Use less of the stored cache than was kept, (0, stored keepRatio]. */
  readonly keepRatio?: number;
} & (
    | { readonly query: string; readonly messages?: never }
    | { readonly messages: readonly Message[]; readonly query?: never }
  );

/** How to open a session. */
export interface SessionRequest {
  /** Use less of the stored cache than was kept, (0, stored keepRatio]. */
  readonly keepRatio?: number;
  /** The session ends when it was not used for so long; 1 to 86,400, default 600. */
  readonly ttlSeconds?: number;
}

/** A session's next question. */
export interface SessionQueryRequest extends AnswerOptions {
  readonly query: string;
}

/** A conversation that the server's engine holds; times are RFC 3339. */
export interface Session {
  readonly id: string;
  readonly object: 'session';
  readonly contextId: string;
  readonly keepRatio: number;
  /** Questions answered. */
  readonly turns: number;
  /** Tokens held behind the context. */
  readonly tokens: number;
  readonly createdAt: string;
  readonly lastUsedAt: string;
  readonly expiresAt: string;
}

/** An answer; durations are milliseconds. */
export interface Answer {
  readonly id: string;
  readonly object: 'answer';
  readonly contextId: string;
  readonly answer: string;
  readonly finishReason: 'stop' | 'length' | 'cancelled';
  readonly usage: {
    readonly contextTokens: number;
    /** The question's tokens, with the template around it. */
    readonly queryTokens: number;
    readonly completionTokens: number;
    /** Tokens whose KV was computed for this request: never the document's. */
    readonly prefilledTokens: number;
  };
  readonly cache: {
    readonly source: 'device' | 'host' | 'disk';
    readonly keepRatio: number;
    readonly pairs: number;
    readonly bytes: number;
  };
  readonly timings: {
    readonly queueMs: number;
    readonly loadMs: number;
    /** From the request's arrival, queue and loading included. */
    readonly firstTokenMs: number;
    readonly totalMs: number;
    readonly tokensPerSecond: number;
  };
}

/** An answer of a session. */
export interface SessionAnswer extends Answer {
  readonly sessionId: string;
}

/** What a streamed answer consists of: pieces of text, then the whole. */
export type AnswerEvent<T extends Answer = Answer> =
  { readonly type: 'token'; readonly text: string } | { readonly type: 'done'; readonly answer: T };
