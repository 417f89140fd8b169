import { createHmac } from 'node:crypto';
import type { ContextStore } from '../../storage/context-store.ts';

/**
 * What makes a tenant's ids differ from others': an HMAC over its name, keyed with the store's
 * secret. So no id tells anyone without the secret what it is the id of. Tenant '' has the salt '':
 * without tenants ids are the same in every store.
 */
export class TenantSalts {
  readonly #store: Pick<ContextStore, 'secret'>;
  #secret: Uint8Array | undefined;

  constructor(store: Pick<ContextStore, 'secret'>) {
    this.#store = store;
  }

  /** 64 hex digits. @throws ReadonceError `storage_full` if the secret cannot be made */
  saltOf(tenant: string): string {
    if (tenant === '') return '';
    this.#secret ??= this.#store.secret();
    return createHmac('sha256', this.#secret).update(`readonce tenant ${tenant}`).digest('hex');
  }
}
