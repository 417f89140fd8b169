import type { Clock } from '../core/clock.ts';
import type { CompressionSpec } from '../core/compression-spec.ts';
import type { Engine } from '../engine/protocol.ts';
import type { Logger } from '../observability/logger.ts';
import type { Metrics } from '../observability/metrics.ts';
import type { ContextStore } from '../../storage/context-store.ts';
import type { ServiceLimits } from './limits.ts';

/** What the use cases are made of; who passes them in closes them. */
export interface ServiceDeps {
  readonly engine: Engine;
  readonly store: ContextStore;
  /** What a PUT that says nothing gets. */
  readonly defaults: CompressionSpec;
  readonly limits: ServiceLimits;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
}
