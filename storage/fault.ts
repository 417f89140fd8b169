import type { ReadonceError } from '../src/core/errors.ts';
import type { Fault } from './context-store.ts';

/** What a `corrupt_record` error says of the context, for the quarantine. */
export function faultOf({ details, message }: ReadonceError): Fault {
  const { reason, generation, id: _, ...place } = details;
  const where = Object.entries(place).map(([name, value]) => `${name} ${String(value)}`);
  const what = typeof reason === 'string' ? reason : message;
  return {
    reason: where.length === 0 ? what : `${what} (${where.join(', ')})`,
    // Records do not know which write they are of.
    ...(typeof generation === 'number' && generation > 0 ? { generation } : {}),
  };
}
