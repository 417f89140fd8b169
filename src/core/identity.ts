import { createHash } from 'node:crypto';
import type { CompressionSpec } from './compression-spec.ts';

/** Bumped whenever the stored bytes of the same inputs would differ. Part of every context's id. */
export const formatVersion = 1;

/**
 * Everything a context's numbers depend on (docs/ARCHITECTURE.md, idea 3); not device, threads or
 * batching.
 */
export interface ContextIdentity {
  /** Salt of the tenant that owns the context; '' without tenants. */
  readonly tenantSalt: string;
  /** `sha256:…` over config, weights, tokenizer and chat template. */
  readonly modelFingerprint: string;
  /** Token ids of the prefix P: template, system text, instructions. */
  readonly prefixIds: Int32Array;
  /** Token ids of the document. */
  readonly documentIds: Int32Array;
  readonly compression: CompressionSpec;
  /** Version of the scoring method, see `ScoringMethod.version`. */
  readonly methodVersion: number;
  /** Tokens of a reconstruction chunk; 0 for methods that do not reconstruct. */
  readonly chunkTokens: number;
}

/** The form of every context id, as `contextId` makes them. */
export const contextIdPattern = /^ctx_[0-9a-f]{40}$/;

/**
 * The id of a context: `ctx_` and the first 160 bits of a SHA-256 over the identity, each field
 * length-prefixed so that no two identities serialise alike. Token ids enter as little-endian
 * int32.
 */
export function contextId(identity: ContextIdentity): string {
  const hash = createHash('sha256');
  const field = (bytes: Uint8Array | string): void => {
    const data = typeof bytes === 'string' ? Buffer.from(bytes, 'utf8') : bytes;
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(data.byteLength));
    hash.update(length).update(data);
  };
  field(`readonce context ${formatVersion}`);
  field(identity.tenantSalt);
  field(identity.modelFingerprint);
  field(tokenBytes(identity.prefixIds));
  field(tokenBytes(identity.documentIds));
  const { method, keepRatio, budget, precision } = identity.compression;
  field(method);
  field(String(identity.methodVersion));
  field(String(identity.chunkTokens));
  field(String(keepRatio));
  field(budget);
  field(precision);
  return `ctx_${hash.digest('hex').slice(0, 40)}`;
}

/** The bytes of token ids as stored and hashed: little-endian int32. */
export function tokenBytes(ids: Int32Array): Uint8Array {
  return new Uint8Array(ids.buffer, ids.byteOffset, ids.byteLength);
}
