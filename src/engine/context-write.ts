import { createHash } from 'node:crypto';
import { resolvePrecision } from '../compression/registry.ts';
import type { Clock } from '../core/clock.ts';
import type { ContextRecord, ContextUsage, IngestTimings } from '../core/context.ts';
import type { Checkpoint } from '../model/checkpoint.ts';
import type { ContextWrite, HeadPairs, HeadRanking } from '../../storage/context-store.ts';
import type { TokenizedDocument } from './document.ts';
import type { IngestProgress, IngestRequest } from './protocol.ts';

/** A document whose pairs are chosen, wherever they come from. */
export interface ChosenPairs {
  readonly request: IngestRequest;
  readonly document: TokenizedDocument;
  /** Rows of each head, the prefix included. */
  readonly lengths: Uint32Array;
  /** See `ContextWrite`. */
  pairs(head: number): HeadPairs;
  ranking(head: number): HeadRanking;
  /** Called last, before the context can be seen. */
  timings(nowMs: number): IngestTimings;
  readonly onProgress: (progress: IngestProgress) => void;
}

/** What the store is given: the record that goes with the pairs, and the pairs head by head. */
export function contextWrite(
  { checkpoint, clock }: { readonly checkpoint: Checkpoint; readonly clock: Clock },
  chosen: ChosenPairs,
): ContextWrite {
  const { request, document, lengths } = chosen;
  const { compression, plan } = document;
  const precision = resolvePrecision(compression.precision);
  return {
    record: contextRecord(checkpoint, chosen),
    timings: () => chosen.timings(clock.monotonicMs()),
    // Read when all else is stored: no context expires before it can be used.
    get usage() {
      return firstUsage(request, clock.nowMs());
    },
    prefixIds: document.prefixIds,
    documentIds: document.documentIds,
    encodedBytes: (rows) => precision.encodedBytes(rows, plan.layout.headDim),
    pairs: (head) => {
      chosen.onProgress({ phase: 'persist', done: head + 1, total: lengths.length });
      return chosen.pairs(head);
    },
    ranking: (head) => chosen.ranking(head),
  };
}

function contextRecord(
  checkpoint: Checkpoint,
  { request, document, lengths }: ChosenPairs,
): Omit<ContextRecord, 'timings'> {
  const { plan } = document;
  const bytes = Buffer.from(request.document, 'utf8');
  return {
    id: document.id,
    family: document.family,
    tenant: request.tenant,
    model: { id: checkpoint.id, fingerprint: checkpoint.fingerprint },
    document: {
      bytes: bytes.length,
      tokens: plan.documentIds.length,
      sha256: createHash('sha256').update(bytes).digest('hex'),
    },
    compression: document.compression,
    methodVersion: document.method.version,
    chunkTokens: document.chunkTokens,
    fidelity: null,
    layout: plan.layout,
    prefixTokens: plan.prefixTokens,
    pairCounts: [...lengths],
    createdAtMs: request.createdAtMs,
  };
}

function firstUsage({ createdAtMs, usage }: IngestRequest, nowMs: number): ContextUsage {
  const { ttlMs, pinned, labels } = usage;
  const expiresAtMs = ttlMs === null ? null : nowMs + ttlMs;
  return { lastUsedAtMs: createdAtMs, expiresAtMs, pinned, labels };
}
