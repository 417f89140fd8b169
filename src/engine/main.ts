import { asReadonceError, ReadonceError } from '../core/errors.ts';
import { createLogger, type Logger } from '../observability/logger.ts';
import { EngineHost } from './engine-host.ts';
import type { EngineOptions, EngineReply, EngineRequest } from './protocol.ts';

/** Entry of an engine process: reads requests from the server's channel until it closes. */

// Terminals and supervisors signal the whole group: the server decides when its engine ends.
process.on('SIGINT', () => undefined);
process.on('SIGTERM', () => undefined);

const cancellations = new Map<number, AbortController>();
let host: EngineHost | undefined;
let logger: Logger | undefined;

function reply(message: EngineReply): void {
  if (process.connected) process.send?.(message);
}

/** Runs a request and sends its result or error. */
async function serve(requestId: number, run: (signal: AbortSignal) => unknown): Promise<void> {
  const cancellation = new AbortController();
  cancellations.set(requestId, cancellation);
  try {
    const result = await run(cancellation.signal);
    reply({ kind: 'result', requestId, result });
  } catch (error) {
    const isOurs = error instanceof ReadonceError || cancellation.signal.aborted;
    if (!isOurs) logger?.error({ err: error, requestId }, 'engine request failed');
    reply({ kind: 'error', requestId, error: asReadonceError(error).toJSON() });
  } finally {
    cancellations.delete(requestId);
  }
}

async function start(options: EngineOptions): Promise<void> {
  logger = createLogger({ level: options.logLevel });
  try {
    host = await EngineHost.start(options, logger);
    reply({ kind: 'ready', info: host.info });
  } catch (error) {
    reply({ kind: 'failed-to-start', error: asReadonceError(error).toJSON() });
    process.disconnect();
  }
}

async function shutdown(): Promise<void> {
  for (const cancellation of cancellations.values()) cancellation.abort();
  await host?.close();
  process.exit(0);
}

async function handle(running: EngineHost, request: EngineRequest): Promise<void> {
  switch (request.op) {
    case 'identify':
      return serve(request.requestId, () => running.identify(request.args));
    case 'find':
      return serve(request.requestId, () => running.find(request.args));
    case 'ingest':
      return serve(request.requestId, (signal) =>
        running.ingest({
          request: request.args,
          signal,
          onProgress: (progress) => {
            reply({ kind: 'progress', requestId: request.requestId, progress });
          },
        }),
      );
    case 'query':
      return serve(request.requestId, (signal) =>
        running.answer({
          query: request.args,
          signal,
          onText: (text) => {
            reply({ kind: 'text', requestId: request.requestId, text });
          },
        }),
      );
    case 'open-session':
      return serve(request.requestId, () => running.openSession(request.args));
    case 'session':
      return serve(request.requestId, () => running.session(request.args.sessionId));
    case 'close-session':
      return serve(request.requestId, () => running.closeSession(request.args.sessionId));
    case 'unload':
      return serve(request.requestId, () => running.unload(request.args.contextId));
    case 'cancel':
      cancellations.get(request.requestId)?.abort();
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
  else if (host !== undefined) void handle(host, request);
});
process.on('disconnect', () => void shutdown());
