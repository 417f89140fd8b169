import { createHash } from 'node:crypto';
import { contextId, familyId } from '../../src/core/identity.ts';
import type { ContextStore } from '../../storage/context-store.ts';
import { encodeFrame } from '../../storage/frame.ts';
import { exportContext } from '../../storage/portable/export.ts';
import { encodePreamble } from '../../storage/portable/format.ts';
import type { ImportTarget } from '../../storage/portable/import.ts';
import { sampleContext, type Sample, type SampleOptions } from './storage-samples.ts';

/** A sample whose ids are those of its content, as an importer demands, for its owner. */
export function portableSample(options: SampleOptions & { readonly tenantSalt?: string }): Sample {
  const sample = sampleContext(options);
  const { record, prefixIds, documentIds } = sample;
  const identity = {
    tenantSalt: options.tenantSalt ?? '',
    modelFingerprint: record.model.fingerprint,
    prefixIds,
    documentIds,
    compression: record.compression,
    methodVersion: record.methodVersion,
    chunkTokens: record.chunkTokens,
  };
  const ids = { id: contextId(identity), family: familyId(identity) };
  return { ...sample, record: { ...record, ...ids } };
}

/** What a sample is imported to: a store whose model is the sample's. */
export function targetFor(
  store: ContextStore,
  sample: Sample,
  change: Partial<ImportTarget> = {},
): ImportTarget {
  const { record } = sample;
  return {
    store,
    owner: { tenant: '', tenantSalt: '' },
    model: { fingerprint: record.model.fingerprint, layout: record.layout },
    rowBytes: () => sample.encodedBytes(1),
    usage: { lastUsedAtMs: 1_800_000_000_000, expiresAtMs: null, pinned: false },
    ...change,
  };
}

/** A stored context's file, whole. */
export async function exportFile(store: ContextStore, id: string): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const part of exportContext(store, id)) parts.push(part);
  return Buffer.concat(parts);
}

/** A file as it may come over a network. */
export async function* inParts(file: Uint8Array, partBytes = 1000): AsyncGenerator<Uint8Array> {
  for (let start = 0; start < file.byteLength; start += partBytes) {
    yield file.subarray(start, start + partBytes);
  }
}

/** What a forged file says of itself; what is left out is the sample's. */
export interface Forgery {
  readonly manifest?: unknown;
  readonly tokens?: Int32Array;
  readonly ranking?: Sample['ranking'];
  /** Frames instead of those of tokens, rankings and pairs. */
  readonly frames?: readonly Uint8Array[];
}

/** A file whose checksums are right, whatever is in it. */
export function forgeFile(sample: Sample, forgery: Forgery = {}): Buffer {
  const { record } = sample;
  const manifest = forgery.manifest ?? { record, labels: {} };
  const frames = forgery.frames ?? sampleFrames(sample, forgery);
  const header = { kind: 'manifest', precision: '', id: record.id, layer: 0, head: 0 } as const;
  const payload = Buffer.from(JSON.stringify(manifest), 'utf8');
  const file = Buffer.concat([
    encodePreamble(record.id),
    encodeFrame({ ...header, firstRank: 0, count: 1 }, [payload]),
    ...frames,
  ]);
  return Buffer.concat([file, createHash('sha256').update(file).digest()]);
}

function sampleFrames(sample: Sample, forgery: Forgery): Uint8Array[] {
  const { record, prefixIds, documentIds } = sample;
  const { id, layout, pairCounts, compression } = record;
  const tokens = forgery.tokens ?? Int32Array.from([...prefixIds, ...documentIds]);
  const bytes = (array: Int32Array | Uint32Array | Float32Array): Uint8Array =>
    new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  const none = { id, precision: '', layer: 0, head: 0, firstRank: 0 };
  const place = (flat: number) => ({
    layer: Math.floor(flat / layout.kvHeads),
    head: flat % layout.kvHeads,
  });
  const heads = [...pairCounts.keys()];
  const rankings = heads.flatMap((flat) => {
    const { positions, scores } = forgery.ranking?.(flat) ?? sample.ranking(flat);
    const header = { ...none, ...place(flat), kind: 'ranking', count: positions.length } as const;
    return positions.length === 0 ? [] : [encodeFrame(header, [bytes(positions), bytes(scores)])];
  });
  const pairs = heads.map((flat) => {
    const { rows, keys, values } = sample.pairs(flat);
    const { precision } = compression;
    const header = { ...none, ...place(flat), kind: 'pairs', precision, count: rows } as const;
    return encodeFrame(header, [keys, values]);
  });
  const tokenFrame = encodeFrame({ ...none, kind: 'tokens', count: tokens.length }, [
    bytes(tokens),
  ]);
  return [tokenFrame, ...rankings, ...pairs];
}
