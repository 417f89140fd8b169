import { createHash } from 'node:crypto';
import type { CompressionSpec } from './compression-spec.ts';

/** Bumped whenever the stored bytes of the same inputs would differ. Part of every context's id. */
export const formatVersion = 2;

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

/** The form of every family id, as `familyId` makes them. */
export const familyIdPattern = /^fam_[0-9a-f]{40}$/;

/**
 * The id of a context: `ctx_` and the first 160 bits of a SHA-256 over the identity, each field
 * length-prefixed so that no two identities serialise alike. Token ids enter as little-endian
 * int32.
 */
export function contextId(identity: ContextIdentity): string {
  const { method, keepRatio, budget, precision } = identity.compression;
  return `ctx_${fieldsHash([
    `readonce context ${formatVersion}`,
    ...sourceFields(identity),
    method,
    String(identity.methodVersion),
    String(identity.chunkTokens),
    String(keepRatio),
    budget,
    precision,
  ])}`;
}

/**
 * The id of a family: `fam_` and a hash as of `contextId`, but over neither keepRatio nor
 * precision. Contexts of one family were ranked alike, so that one may be derived from another.
 */
export function familyId(identity: ContextIdentity): string {
  return `fam_${fieldsHash([
    `readonce family ${formatVersion}`,
    ...sourceFields(identity),
    identity.compression.method,
    String(identity.methodVersion),
    String(identity.chunkTokens),
    identity.compression.budget,
  ])}`;
}

function sourceFields(identity: ContextIdentity): readonly (Uint8Array | string)[] {
  return [
    identity.tenantSalt,
    identity.modelFingerprint,
    tokenBytes(identity.prefixIds),
    tokenBytes(identity.documentIds),
  ];
}

/** The first 160 bits of a SHA-256 over length-prefixed fields, in hex. */
function fieldsHash(fields: readonly (Uint8Array | string)[]): string {
  const hash = createHash('sha256');
  for (const field of fields) {
    const data = typeof field === 'string' ? Buffer.from(field, 'utf8') : field;
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(data.byteLength));
    hash.update(length).update(data);
  }
  return hash.digest('hex').slice(0, 40);
}

/** The bytes of token ids as stored and hashed: little-endian int32. */
export function tokenBytes(ids: Int32Array): Uint8Array {
  return new Uint8Array(ids.buffer, ids.byteOffset, ids.byteLength);
}
