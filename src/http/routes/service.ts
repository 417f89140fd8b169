import { createRoute, z } from '@hono/zod-openapi';
import type { App, AppDeps } from '../app-env.ts';
import { noParameters } from '../schemas/fields.ts';
import { problems } from '../schemas/problem.ts';
import {
  healthSchema,
  methodListSchema,
  modelListSchema,
  readinessSchema,
} from '../schemas/service.ts';

const tags = ['service'];

/** What the service can do and how it is: methods, models, health, readiness, metrics. */
export function serviceRoutes(app: App, deps: AppDeps): void {
  registerCapabilities(app, deps);
  registerHealth(app, deps);
  registerMetrics(app, deps);
}

function registerCapabilities(app: App, { service }: AppDeps): void {
  const methods = createRoute({
    method: 'get',
    path: '/methods',
    operationId: 'listMethods',
    summary: 'The compression methods',
    tags,
    request: { query: noParameters },
    responses: {
      200: { description: 'All.', content: { 'application/json': { schema: methodListSchema } } },
      ...problems(),
    },
  });
  app.openapi(methods, (c) =>
    c.json({ object: 'list' as const, data: [...service.methods()] }, 200),
  );
  const models = createRoute({
    method: 'get',
    path: '/models',
    operationId: 'listModels',
    summary: 'The models; none until the engine has started once',
    tags,
    request: { query: noParameters },
    responses: {
      200: { description: 'All.', content: { 'application/json': { schema: modelListSchema } } },
      ...problems(),
    },
  });
  app.openapi(models, (c) => c.json({ object: 'list' as const, data: [...service.models()] }, 200));
}

function registerHealth(app: App, { service }: AppDeps): void {
  const health = createRoute({
    method: 'get',
    path: '/healthz',
    operationId: 'getHealth',
    summary: 'Whether the process is up',
    tags,
    responses: {
      200: { description: 'It is.', content: { 'application/json': { schema: healthSchema } } },
    },
  });
  app.openapi(health, (c) => c.json({ status: 'ok' as const }, 200));
  const readiness = createRoute({
    method: 'get',
    path: '/readyz',
    operationId: 'getReadiness',
    summary: 'Whether documents and queries can be served',
    tags,
    responses: {
      200: {
        description: 'They can.',
        content: { 'application/json': { schema: readinessSchema } },
      },
      ...problems('engine_unavailable'),
    },
  });
  app.openapi(readiness, (c) => {
    service.checkReady();
    return c.json({ status: 'ready' as const }, 200);
  });
}

function registerMetrics(app: App, { service, metrics }: AppDeps): void {
  const route = createRoute({
    method: 'get',
    path: '/metrics',
    operationId: 'getMetrics',
    summary: 'Metrics in the Prometheus text format; docs/metrics.md explains them',
    tags,
    responses: {
      200: { description: 'The metrics.', content: { 'text/plain': { schema: z.string() } } },
      ...problems(),
    },
  });
  app.openapi(route, async (c) => {
    const { registry } = metrics;
    service.storeGauges.update();
    await service.deviceGauges.update();
    return c.text(await registry.metrics(), 200, { 'Content-Type': registry.contentType });
  });
}
