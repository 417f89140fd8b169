import type { ContextUsage } from '../core/context.ts';

/** What a client may change of a context. Undefined: leave as it is. */
export interface UsageRequest {
  /** Seconds from now; while it is being ingested, from when it is stored. null: no expiry. */
  readonly ttlSeconds?: number | null | undefined;
  readonly pinned?: boolean | undefined;
  /** Replaces all labels. */
  readonly labels?: Readonly<Record<string, string>> | undefined;
}

/** The change a request makes to the usage of a context that is stored by now. */
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

/** Two requests as one: what the later one gives goes before. */
export function laterUsage(earlier: UsageRequest, later: UsageRequest): UsageRequest {
  return {
    ttlSeconds: later.ttlSeconds === undefined ? earlier.ttlSeconds : later.ttlSeconds,
    pinned: later.pinned ?? earlier.pinned,
    labels: later.labels ?? earlier.labels,
  };
}

/** Whether a context may no longer be used. */
export function hasExpired(usage: ContextUsage, nowMs: number): boolean {
  return usage.expiresAtMs !== null && usage.expiresAtMs <= nowMs;
}
