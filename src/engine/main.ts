import { asReadonceError } from '../core/errors.ts';
import { createLogger } from '../observability/logger.ts';
import { EngineHost } from './engine-host.ts';
import type { EngineOptions, EngineReply, EngineRequest } from './protocol.ts';
import { Requests } from './requests.ts';

/** Entry of an engine process: reads requests from the server's channel until it closes. */

// Terminals and supervisors signal the whole group: the server decides when its engine ends.
process.on('SIGINT', () => undefined);
process.on('SIGTERM', () => undefined);

let running: { readonly host: EngineHost; readonly requests: Requests } | undefined;

function reply(message: EngineReply): void {
  if (process.connected) process.send?.(message);
}

async function start(options: EngineOptions): Promise<void> {
  const logger = createLogger({ level: options.logLevel });
  try {
    const host = await EngineHost.start(options, logger);
    const requests = new Requests({
      logger,
      reply,
      isDeviceLost: (error) => host.isDeviceLost(error),
      exit: (status) => process.exit(status),
    });
    running = { host, requests };
    reply({ kind: 'ready', info: host.info });
  } catch (error) {
    reply({ kind: 'failed-to-start', error: asReadonceError(error).toJSON() });
    process.disconnect();
  }
}

async function shutdown(): Promise<void> {
  running?.requests.cancelAll();
  await running?.host.close();
  process.exit(0);
}

type Running = NonNullable<typeof running>;

async function handle({ host, requests }: Running, request: EngineRequest): Promise<void> {
  switch (request.op) {
    case 'identify':
      return requests.serve(request.requestId, (signal) => host.identify(request.args, signal));
    case 'find':
      return requests.serve(request.requestId, (signal) => host.find(request.args, signal));
    case 'ingest':
      return requests.serve(request.requestId, (signal) =>
        host.ingest({
          request: request.args,
          signal,
          onProgress: (progress) => {
            reply({ kind: 'progress', requestId: request.requestId, progress });
          },
        }),
      );
    case 'query':
      return requests.serve(request.requestId, (signal) =>
        host.answer({
          query: request.args,
          signal,
          onText: (text) => {
            reply({ kind: 'text', requestId: request.requestId, text });
          },
        }),
      );
    case 'open-session':
      return requests.serve(request.requestId, () => host.openSession(request.args));
    case 'session':
      return requests.serve(request.requestId, () => host.session(request.args.sessionId));
    case 'close-session':
      return requests.serve(request.requestId, () => host.closeSession(request.args.sessionId));
    case 'unload':
      return requests.serve(request.requestId, () => host.unload(request.args.contextId));
    case 'device-memory':
      return requests.serve(request.requestId, () => host.deviceMemory());
    case 'cancel':
      requests.cancel(request.requestId);
      return;
    case 'start':
    case 'shutdown':
      return;
  }
}

process.on('message', (message) => {
  const request = message as EngineRequest;
  if (request.op === 'start') void start(request.options);
  else if (request.op === 'shutdown') void shutdown();
  else if (running !== undefined) void handle(running, request);
});
process.on('disconnect', () => void shutdown());
