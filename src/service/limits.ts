/**
 * Bounds on what the service holds at once. Past a bound, requests are refused as `overloaded`.
 * Where nothing else is said, a tenant may take half of the places; one more is refused as
 * `rate_limited`. The four of ingestions and queries can be configured.
 */
export interface ServiceLimits {
  /** Ingestions running or queued. Each holds its document in memory until it is done. */
  readonly maxQueuedIngests: number;
  /** Of these, of one tenant. */
  readonly maxTenantIngests: number;
  /** Queries running or queued; and as many sessions being opened. */
  readonly maxQueuedQueries: number;
  /** Of these, of one tenant. */
  readonly maxTenantQueries: number;
  /** Context files being imported. Each is on the disk as far as it came, and a head in memory. */
  readonly maxImports: number;
  /** Open event streams. */
  readonly maxEventStreams: number;
  /** Progress events waiting for a slow reader of an event stream; later ones are dropped. */
  readonly maxBufferedEvents: number;
  /** Failed ingestions remembered; the oldest are forgotten. */
  readonly maxFailedContexts: number;
}

/**
 * 64 documents of the largest body (10 MiB) are two thirds of a GiB, and documents that fit an
 * embedded model's window are a hundred times smaller. Queries and streams are small: their
 * bounds only keep waiting times sensible. A quarter for each tenant: three may be at their bound,
 * and a fourth still finds a place.
 */
export const defaultServiceLimits: ServiceLimits = {
  maxQueuedIngests: 64,
  maxTenantIngests: 16,
  maxQueuedQueries: 256,
  maxTenantQueries: 64,
  maxImports: 2,
  maxEventStreams: 256,
  maxBufferedEvents: 64,
  maxFailedContexts: 1000,
};
