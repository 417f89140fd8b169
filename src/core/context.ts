import type { CompressionSpec } from './compression-spec.ts';
import type { KvLayout } from './kv-layout.ts';

/** Model time and store time of an ingestion, milliseconds. */
export interface IngestTimings {
  /** The model's time only. */
  readonly prefillMs: number;
  /** The model's time only: reconstruction passes and scoring. */
  readonly scoreMs: number;
  readonly persistMs: number;
  readonly totalMs: number;
}

/** Teacher-forced fidelity of the compact cache, when it was measured. */
export interface Fidelity {
  readonly agreement: number;
  readonly nllFull: number;
  readonly nllCompact: number;
}

/** What never changes about a stored context: written once, checksummed. */
export interface ContextRecord {
  readonly id: string;
  /** Shared with the contexts that differ in keepRatio and precision only (`familyId`). */
  readonly family: string;
  /** Owner; '' without tenants. */
  readonly tenant: string;
  readonly model: { readonly id: string; readonly fingerprint: string };
  readonly document: { readonly bytes: number; readonly tokens: number; readonly sha256: string };
  readonly compression: CompressionSpec;
  readonly methodVersion: number;
  /** Tokens of a reconstruction chunk; 0 if the method does not reconstruct. */
  readonly chunkTokens: number;
  readonly fidelity: Fidelity | null;
  readonly layout: KvLayout;
  /** |P|: protected pairs of every head, ranked before the document's. */
  readonly prefixTokens: number;
  /** Pairs of each head, protected ones included, `[layers · kvHeads]`. */
  readonly pairCounts: readonly number[];
  readonly timings: IngestTimings;
  readonly createdAtMs: number;
}

/** What may change about a stored context. */
export interface ContextUsage {
  readonly lastUsedAtMs: number;
  /** null: never. */
  readonly expiresAtMs: number | null;
  readonly pinned: boolean;
  readonly labels: Readonly<Record<string, string>>;
}

/** A context as the store hands it out: always a whole one. */
export interface StoredContext {
  readonly record: ContextRecord;
  readonly usage: ContextUsage;
  /** Keys, values and quantisation parameters, bytes. */
  readonly storedBytes: number;
  /** Everything stored for it: headers, token ids, scores, records, bytes. */
  readonly diskBytes: number;
}

/** |P| + n: the position of a query's first token. */
export function contextTokens(record: ContextRecord): number {
  return record.prefixTokens + record.document.tokens;
}
