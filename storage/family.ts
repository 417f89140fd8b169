import type { StoredContext } from '../src/core/context.ts';
import { ReadonceError } from '../src/core/errors.ts';
import { findContext } from './catalogue.ts';
import type { Environment, Snapshot } from './environment.ts';
import { familyKeyByteLength, familyPrefix, idByteLength, idOfKey } from './keys.ts';

/** See `ContextStore.family`. Corrupt contexts are left out and told to `warn`. */
export function contextsOfFamily(
  env: Environment,
  family: string,
  warn: (fields: Readonly<Record<string, unknown>>, message: string) => void,
): readonly StoredContext[] {
  const start = familyPrefix(family);
  const end = Buffer.concat([start, Buffer.alloc(familyKeyByteLength, 0xff)]);
  return env.read((snapshot) => {
    const keys = Array.from(env.tables.families.getKeys({ start, end, transaction: snapshot }));
    return keys.flatMap((key) => {
      const id = idOfKey(key.subarray(key.byteLength - idByteLength));
      const stored = intactContext(env, id, snapshot, warn);
      return stored?.record.family === family ? stored : [];
    });
  });
}

function intactContext(
  env: Environment,
  id: string,
  snapshot: Snapshot,
  warn: (fields: Readonly<Record<string, unknown>>, message: string) => void,
): StoredContext | undefined {
  try {
    return findContext(env, id, snapshot)?.stored;
  } catch (error) {
    if (!(error instanceof ReadonceError)) throw error;
    warn({ err: error, contextId: id }, 'a corrupt context is left out of its family');
    return undefined;
  }
}
