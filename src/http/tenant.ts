import type { Context } from 'hono';
import { onlyTenant } from '../service/deps.ts';
import type { AppEnv } from './app-env.ts';

/** Who asks. There are no tenants yet. */
export function tenantOf(_c: Context<AppEnv>): string {
  return onlyTenant;
}
