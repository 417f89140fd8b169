/** Bounds and intervals of the HTTP layer. */
export interface HttpLimits {
  /** Largest request body, bytes; enforced while it arrives. */
  readonly maxBodyBytes: number;
  /** What the bodies of all requests together may take, bytes; at least one of the largest. */
  readonly maxBodiesBytes: number;
  /** Largest imported file, bytes; enforced while it arrives. */
  readonly maxImportBytes: number;
  /** Time between comments that keep an idle event stream open through proxies. */
  readonly heartbeatMs: number;
  /** How long a streamed answer may have no event before its response begins all the same. */
  readonly maxSilentMs: number;
}

/** 10 MiB is the contract's; proxies commonly close streams that are silent for half a minute. */
export const defaultHttpLimits: HttpLimits = {
  maxBodyBytes: 10 * 2 ** 20,
  maxBodiesBytes: 256 * 2 ** 20,
  maxImportBytes: 4 * 2 ** 30,
  heartbeatMs: 15_000,
  maxSilentMs: 10_000,
};
