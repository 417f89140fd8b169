import type { OpenAPIHono } from '@hono/zod-openapi';
import type { ApiKey } from '../core/api-key.ts';
import type { Clock } from '../core/clock.ts';
import type { Logger } from '../observability/logger.ts';
import type { Metrics } from '../observability/metrics.ts';
import type { Service } from '../service/service.ts';
import type { BodyBudget } from './body-budget.ts';
import type { HttpLimits } from './limits.ts';

/** What the server and middleware leave for handlers. */
export interface AppEnv {
  Bindings: {
    /** The connection's side of the response, where there is a connection. */
    outgoing?: { destroy(): void };
  };
  Variables: {
    requestId: string;
    /** When the request arrived, `Clock.monotonicMs`. */
    arrivedAtMs: number;
    /** Whose request it is; '' without API keys. */
    tenant: string;
    /** What all requests' bodies share. */
    bodies: BodyBudget;
    /** Aborts when the client has gone or its time is up; the reason is a `ReadonceError`. */
    signal: AbortSignal;
    /** To be called when a response begins that is a stream, and the result when it ends. */
    beginStream: () => () => void;
    /** The code of the problem that was answered, if one was. */
    problemCode?: string;
  };
}

/** A hono app whose handlers find what middleware left in `c.var`. */
export type App = OpenAPIHono<AppEnv>;

/** What the HTTP layer is made of. */
export interface AppDeps {
  readonly service: Service;
  /** None: nobody needs one. */
  readonly apiKeys: readonly ApiKey[];
  readonly limits: HttpLimits;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
}
