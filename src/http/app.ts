import { OpenAPIHono } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { requestId } from 'hono/request-id';
import { secureHeaders } from 'hono/secure-headers';
import { ReadonceError } from '../core/errors.ts';
import type { App, AppDeps, AppEnv } from './app-env.ts';
import { authentication } from './authentication.ts';
import { BodyBudget } from './body-budget.ts';
import { disconnectedResponse, isDisconnection } from './disconnection.ts';
import { arrival, observation, validQueryString } from './middleware.ts';
import { openApiRoute } from './openapi.ts';
import { clientError, problemResponse } from './problem.ts';
import { newRequestId } from './request-id.ts';
import { requestLife } from './request-life.ts';
import { contextRoutes } from './routes/contexts.ts';
import { eventRoutes } from './routes/events.ts';
import { importanceRoutes } from './routes/importance.ts';
import { transferRoutes } from './routes/transfers.ts';
import { queryRoutes } from './routes/queries.ts';
import { chatRoutes } from './routes/chat.ts';
import { sessionRoutes } from './routes/sessions.ts';
import { serviceRoutes } from './routes/service.ts';
import { validationHook } from './validation.ts';

/** Longest `X-Request-Id` taken over from a client. */
const maxRequestIdLength = 64;

/**
 * The HTTP face of a service: a web-standard `fetch` handler that knows no socket. Every error is a
 * problem (RFC 9457); every response has `X-Request-Id`.
 */
export function createApp(deps: AppDeps): App {
  const app = new OpenAPIHono<AppEnv>({ defaultHook: validationHook });
  app.use(arrival(deps));
  app.use(
    requestId({
      limitLength: maxRequestIdLength,
      generator: newRequestId,
    }),
  );
  app.use(observation(deps));
  app.use(secureHeaders());
  app.use(authentication(deps.apiKeys));
  app.use(requestLife());
  app.use(validQueryString());
  const { maxBodyBytes, maxBodiesBytes } = deps.limits;
  const bodies = new BodyBudget(Math.max(maxBodyBytes, maxBodiesBytes));
  app.use(async (c, next) => {
    c.set('bodies', bodies);
    await next();
  });
  contextRoutes(app, deps);
  eventRoutes(app, deps);
  importanceRoutes(app, deps);
  queryRoutes(app, deps);
  sessionRoutes(app, deps);
  chatRoutes(app, deps);
  transferRoutes(app, deps);
  serviceRoutes(app, deps);
  openApiRoute(app, { needsKey: deps.apiKeys.length > 0 });
  const paths = declaredPaths(app);
  app.notFound((c) => unknownRoute(c, paths));
  app.onError((thrown, c) => {
    if (isDisconnection(thrown)) return disconnectedResponse();
    const error = clientError(thrown);
    if (error.status === 500) {
      deps.logger.error({ err: thrown, requestId: c.var.requestId }, 'request failed');
    }
    return problemResponse(c, error);
  });
  return app;
}

interface DeclaredPath {
  readonly pattern: RegExp;
  readonly methods: Set<string>;
}

/** What routes there are, by path: to tell a wrong method from an unknown path. */
function declaredPaths(app: App): readonly DeclaredPath[] {
  const paths = new Map<string, DeclaredPath>();
  for (const { method, path } of app.routes) {
    if (method === 'ALL') continue;
    const pattern = new RegExp(`^${path.replaceAll('.', '\\.').replaceAll(/:\w+/g, '[^/]+')}$`);
    const declared = paths.get(path) ?? { pattern, methods: new Set<string>() };
    declared.methods.add(method);
    if (method === 'GET') declared.methods.add('HEAD');
    paths.set(path, declared);
  }
  return [...paths.values()];
}

function unknownRoute(c: Context<AppEnv>, paths: readonly DeclaredPath[]): Response {
  const declared = paths.find(({ pattern }) => pattern.test(c.req.path));
  if (declared === undefined) {
    return problemResponse(
      c,
      new ReadonceError(
        'not_found',
        'Expected a known path but got one that is not. GET /openapi.json lists them.',
      ),
    );
  }
  const allow = [...declared.methods].join(', ');
  c.header('Allow', allow);
  return problemResponse(
    c,
    new ReadonceError(
      'method_not_allowed',
      `Expected ${allow} for this path but got another method.`,
    ),
  );
}
