import type { StoredContext } from '../src/core/context.ts';
import { ReadonceError } from '../src/core/errors.ts';
import { contextIdPattern } from '../src/core/identity.ts';
import { findContext } from './catalogue.ts';
import type { ListOptions, ListPage } from './context-store.ts';
import type { Environment, Snapshot } from './environment.ts';
import { createdKey, createdKeyByteLength, idByteLength, idOfKey, tenantPrefix } from './keys.ts';

/** See `ContextStore.list`. Corrupt contexts are left out and told to `warn`. */
export function listContexts(
  env: Environment,
  options: ListOptions,
  warn: (fields: Readonly<Record<string, unknown>>, message: string) => void,
): ListPage {
  const prefix = tenantPrefix(options.tenant);
  const start = options.cursor === undefined ? prefix : startAfter(prefix, options.cursor);
  const end = endOf(prefix);
  return env.read((snapshot) => {
    const contexts: StoredContext[] = [];
    let last: Buffer | undefined;
    for (const key of env.tables.created.getKeys({ start, end, transaction: snapshot })) {
      const context = contextOfIndexKey(env, key, snapshot, warn);
      if (context === undefined || !carries(context, options.label)) continue;
      if (contexts.length === options.limit && last !== undefined) {
        return { contexts, nextCursor: last.subarray(prefix.byteLength).toString('base64url') };
      }
      contexts.push(context);
      last = key;
    }
    return { contexts, nextCursor: null };
  });
}

/** See `ContextStore.isListed`. */
export function isListed(
  env: Environment,
  { tenant, id }: { readonly tenant: string; readonly id: string },
): boolean {
  if (!contextIdPattern.test(id)) return false;
  const start = tenantPrefix(tenant);
  return env.read((snapshot) => {
    const keys = env.tables.created.getKeys({ start, end: endOf(start), transaction: snapshot });
    for (const key of keys) {
      if (idOfKey(key.subarray(key.byteLength - idByteLength)) === id) return true;
    }
    return false;
  });
}

/** Above all index keys of a tenant. */
function endOf(prefix: Buffer): Buffer {
  return Buffer.concat([prefix, Buffer.alloc(createdKeyByteLength, 0xff)]);
}

/** Undefined for a key that is not (or no longer) that of an intact context. */
function contextOfIndexKey(
  env: Environment,
  key: Buffer,
  snapshot: Snapshot,
  warn: (fields: Readonly<Record<string, unknown>>, message: string) => void,
): StoredContext | undefined {
  const id = idOfKey(key.subarray(key.byteLength - idByteLength));
  try {
    const stored = findContext(env, id, snapshot)?.stored;
    return stored !== undefined && createdKey(stored.record).equals(key) ? stored : undefined;
  } catch (error) {
    if (!(error instanceof ReadonceError)) throw error;
    warn({ err: error, contextId: id }, 'a corrupt context is left out of a list');
    return undefined;
  }
}

function carries(context: StoredContext, label: ListOptions['label']): boolean {
  return label === undefined || context.usage.labels[label.key] === label.value;
}

/** The least key above the one that the cursor names (time and id, base64url). */
function startAfter(prefix: Buffer, cursor: string): Buffer {
  const position = Buffer.from(cursor, 'base64url');
  if (prefix.byteLength + position.byteLength !== createdKeyByteLength) {
    throw new ReadonceError(
      'invalid_argument',
      'Expected a cursor that a list returned but got something else; list from the beginning',
    );
  }
  return Buffer.concat([prefix, position, Buffer.alloc(1)]);
}
