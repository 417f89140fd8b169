import { z } from 'zod';
import type { ContextRecord } from '../../src/core/context.ts';
import { recordSchema } from '../catalogue.ts';
import { decodeFrame, encodeFrame } from '../frame.ts';
import { damaged, portableLimits as limits, rowsPerFrame } from './format.ts';

/** What a context file says of its context; everything else in it follows from this. */
export interface Manifest {
  readonly record: ContextRecord;
  readonly labels: Readonly<Record<string, string>>;
}

const shortText = z.string().max(limits.text);

const manifestSchema: z.ZodType<Manifest> = z.strictObject({
  record: recordSchema,
  labels: z
    .record(shortText, shortText)
    .refine((labels) => Object.keys(labels).length <= limits.labels, { error: 'too many labels' }),
});

/** The manifest's frame. Its payload is JSON: parsing that runs nothing and allocates little. */
export function encodeManifest(manifest: Manifest): Buffer {
  const header = { ...manifestHeader(manifest.record.id), count: 1 };
  return encodeFrame(header, [Buffer.from(JSON.stringify(manifest), 'utf8')]);
}

/**
 * The manifest in a frame, verified and validated.
 * @throws ReadonceError `corrupt_record` (the frame), `invalid_argument` (what it says)
 */
export function decodeManifest(frame: Uint8Array, id: string): Manifest {
  const { count, payload } = decodeFrame(frame, manifestHeader(id));
  if (count !== 1) throw damaged('a manifest with a wrong count');
  const manifest = parseManifest(payload);
  if (manifest.record.id !== id) throw damaged("another context's manifest");
  return manifest;
}

function manifestHeader(id: string) {
  return { kind: 'manifest', precision: '', id, layer: 0, head: 0, firstRank: 0 } as const;
}

function parseManifest(payload: Uint8Array): Manifest {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(payload);
    return manifestSchema.parse(JSON.parse(text));
  } catch (error) {
    // What zod and JSON say may quote the file.
    throw damaged('a manifest with unexpected content', {}, error);
  }
}

/**
 * What of a context is past what files may hold, or contradicts itself; undefined: nothing.
 * @param rowBytes of one encoded key (or value)
 */
export function excessOf(record: ContextRecord, rowBytes: number): string | undefined {
  return excessOfDescription(record) ?? excessOfPairs(record, rowBytes);
}

function excessOfDescription(record: ContextRecord): string | undefined {
  const { tenant, model, document, compression, layout, createdAtMs } = record;
  const { method, budget, precision } = compression;
  const texts = [tenant, model.id, model.fingerprint, document.sha256, method, budget, precision];
  if (texts.some((text) => text.length > limits.text)) return 'a text that is too long';
  if (createdAtMs > limits.timeMs) return 'a time past the year 9999';
  if (Math.max(layout.layers, layout.kvHeads) > limits.layers) return 'too many layers or heads';
  if (JSON.stringify(record).length > limits.recordBytes) return 'a record that is too large';
  return undefined;
}

function excessOfPairs(record: ContextRecord, rowBytes: number): string | undefined {
  const { document, prefixTokens, pairCounts } = record;
  const tokens = prefixTokens + document.tokens;
  if (document.tokens < 1) return 'no document token';
  if (tokens > limits.tokens) return `more than ${limits.tokens} tokens`;
  if (pairCounts.some((count) => count < prefixTokens)) return 'a head without the whole prefix';
  if (pairCounts.some((count) => count > tokens)) return 'a head with more pairs than tokens';
  if (rowsPerFrame(2 * rowBytes) < 1) return 'pairs that are too large';
  const most = pairCounts.reduce((a, b) => Math.max(a, b), 0);
  if (most * 2 * rowBytes > limits.headBytes)
    return `a head of more than ${limits.headBytes} bytes`;
  return undefined;
}
