import type { ContextUsage } from '../core/context.ts';

/** What a client may change of a context. Undefined: leave as it is. */
export interface UsageRequest {
  /** Seconds from now; null: no expiry. */
  readonly ttlSeconds?: number | null | undefined;
  readonly pinned?: boolean | undefined;
  /** Replaces all labels. */
  readonly labels?: Readonly<Record<string, string>> | undefined;
}

/** The change a request makes to a context's usage. */
export function usageChange(request: UsageRequest, nowMs: number): Partial<ContextUsage> {
  const { ttlSeconds, pinned, labels } = request;
  return {
    ...(ttlSeconds === undefined
      ? {}
      : { expiresAtMs: ttlSeconds === null ? null : nowMs + ttlSeconds * 1000 }),
    ...(pinned === undefined ? {} : { pinned }),
    ...(labels === undefined ? {} : { labels }),
  };
}

/** Whether a context may no longer be used. */
export function hasExpired(usage: ContextUsage, nowMs: number): boolean {
  return usage.expiresAtMs !== null && usage.expiresAtMs <= nowMs;
}
