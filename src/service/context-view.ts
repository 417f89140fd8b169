import type { CompressionSpec } from '../core/compression-spec.ts';
import type { ContextUsage, Fidelity, IngestTimings, StoredContext } from '../core/context.ts';
import { contextTokens } from '../core/context.ts';
import { headCount, pairBytes } from '../core/kv-layout.ts';

/** Bytes of an element of the uncompressed f16 cache that sizes are compared with. */
const fullElementBytes = 2;

/** A context as clients see it; durations are milliseconds, sizes bytes, times RFC 3339. */
export interface ContextView {
  readonly id: string;
  readonly object: 'context';
  readonly status: 'ingesting' | 'ready' | 'failed';
  readonly reused: boolean;
  readonly model: { readonly id: string; readonly fingerprint: string };
  readonly document: { readonly bytes: number; readonly tokens: number; readonly sha256: string };
  readonly compression: CompressionSpec & { readonly fidelity: Fidelity | null };
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
  readonly labels: Record<string, string>;
}

/** What is known of a context before it is stored. */
export interface PendingContext {
  readonly id: string;
  /** Owner; '' without tenants. */
  readonly tenant: string;
  readonly model: { readonly id: string; readonly fingerprint: string };
  readonly document: { readonly bytes: number; readonly tokens: number; readonly sha256: string };
  readonly compression: CompressionSpec;
  readonly usage: ContextUsage;
  readonly createdAtMs: number;
}

/** @param reused whether the request that asks computed nothing */
export function readyView(
  { record, usage, ...bytes }: StoredContext,
  reused: boolean,
): ContextView {
  const { layout, pairCounts } = record;
  const pairsTotal = contextTokens(record) * headCount(layout);
  const fullBytes = pairBytes(layout, pairsTotal, fullElementBytes);
  return {
    id: record.id,
    object: 'context',
    status: 'ready',
    reused,
    model: record.model,
    document: record.document,
    compression: { ...record.compression, fidelity: record.fidelity },
    size: {
      pairsTotal,
      pairsKept: pairCounts.reduce((sum, count) => sum + count, 0),
      fullBytes,
      storedBytes: bytes.storedBytes,
      diskBytes: bytes.diskBytes,
      compressionFactor: Math.round((fullBytes / bytes.storedBytes) * 100) / 100,
    },
    timings: record.timings,
    ...usageView(usage, record.createdAtMs),
  };
}

/** A context that is not stored (yet): sizes and timings are zero until they are known. */
export function pendingView(
  pending: PendingContext,
  status: 'ingesting' | 'failed',
  reused: boolean,
): ContextView {
  return {
    id: pending.id,
    object: 'context',
    status,
    reused,
    model: pending.model,
    document: pending.document,
    compression: { ...pending.compression, fidelity: null },
    size: {
      pairsTotal: 0,
      pairsKept: 0,
      fullBytes: 0,
      storedBytes: 0,
      diskBytes: 0,
      compressionFactor: 0,
    },
    timings: { prefillMs: 0, scoreMs: 0, persistMs: 0, totalMs: 0 },
    ...usageView(pending.usage, pending.createdAtMs),
  };
}

function usageView(usage: ContextUsage, createdAtMs: number) {
  return {
    createdAt: timestamp(createdAtMs),
    lastUsedAt: timestamp(usage.lastUsedAtMs),
    expiresAt: usage.expiresAtMs === null ? null : timestamp(usage.expiresAtMs),
    pinned: usage.pinned,
    labels: { ...usage.labels },
  };
}

/** RFC 3339, UTC. */
export function timestamp(ms: number): string {
  return new Date(ms).toISOString();
}
