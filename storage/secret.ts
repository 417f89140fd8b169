import { randomBytes } from 'node:crypto';
import type { Environment } from './environment.ts';

const secretBytes = 32;

/** Key of the secret in the table `store`. */
const secretKey = Buffer.from('secret', 'latin1');

/**
 * See `ContextStore.secret`. It lies in the store, so that every copy of the data has it: with
 * another one, documents would get other ids than those they are stored under.
 */
export function storeSecret(env: Environment): Uint8Array {
  const { store } = env.tables;
  return (
    env.read((snapshot) => store.get(secretKey, { transaction: snapshot })) ??
    env.transact(() => {
      // Another process may have made it meanwhile.
      const found = store.get(secretKey);
      if (found !== undefined) return found;
      const secret = randomBytes(secretBytes);
      store.putSync(secretKey, secret);
      return secret;
    })
  );
}
