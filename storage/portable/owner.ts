import type { ContextRecord } from '../../src/core/context.ts';
import { contextId, familyId, type ContextIdentity } from '../../src/core/identity.ts';
import type { TokenIds } from '../context-store.ts';

/** Whose a context is, and what salts its ids. */
export interface Owner {
  /** '' without tenants. */
  readonly tenant: string;
  /** '' for tenant ''. */
  readonly tenantSalt: string;
}

/** The owner of what is in a file: it tells nothing of who wrote it, and fits every reader. */
export const nobody: Owner = { tenant: '', tenantSalt: '' };

/** The record that the same content has for another owner: of other ids, else the same. */
export function ownedBy(
  record: ContextRecord,
  tokens: TokenIds,
  { tenant, tenantSalt }: Owner,
): ContextRecord {
  const identity: ContextIdentity = {
    tenantSalt,
    modelFingerprint: record.model.fingerprint,
    prefixIds: tokens.prefixIds,
    documentIds: tokens.documentIds,
    compression: record.compression,
    methodVersion: record.methodVersion,
    chunkTokens: record.chunkTokens,
  };
  return { ...record, id: contextId(identity), family: familyId(identity), tenant };
}
