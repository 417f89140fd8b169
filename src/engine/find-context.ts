import type { ContextRecord } from '../core/context.ts';
import { ReadonceError } from '../core/errors.ts';
import { requireStoredKeepRatio } from '../core/stored-keep-ratio.ts';
import { resolveMethod } from '../compression/registry.ts';
import type { Checkpoint } from '../model/checkpoint.ts';
import type { ContextStore } from '../../storage/context-store.ts';

/**
 * A stored context of this model.
 * @throws ReadonceError `not_found`, `identity_mismatch`, `corrupt_record`
 */
export function findContext(
  { store, checkpoint }: { readonly store: ContextStore; readonly checkpoint: Checkpoint },
  id: string,
): ContextRecord {
  const stored = store.get(id);
  if (stored === undefined) {
    throw new ReadonceError('not_found', `Expected the id of a stored context but got ${id}`);
  }
  const { model } = stored.record;
  if (model.fingerprint !== checkpoint.fingerprint) {
    throw new ReadonceError(
      'identity_mismatch',
      `Expected a context of model ${checkpoint.id} (${checkpoint.fingerprint}) but ${id} was ` +
        `made with ${model.id} (${model.fingerprint}): put the document again`,
    );
  }
  return stored.record;
}

/**
 * The keepRatio that a query runs at.
 * @throws ReadonceError `invalid_argument` for one above the stored one, or one that the context's
 * method has no order for
 */
export function usedKeepRatio(record: ContextRecord, asked: number | undefined): number {
  const { keepRatio: stored, method } = record.compression;
  if (asked === undefined) return stored;
  const { keepsAll } = resolveMethod(method);
  requireStoredKeepRatio(asked, { keepRatio: stored, method, keepsAll });
  return asked;
}
