import { fork, type ChildProcess } from 'node:child_process';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { assert, defined } from '../core/assert.ts';
import type { StoredContext } from '../core/context.ts';
import { ReadonceError } from '../core/errors.ts';
import type { Logger } from '../observability/logger.ts';
import type {
  Engine,
  EngineAnswer,
  EngineInfo,
  EngineOptions,
  EngineQuery,
  EngineReply,
  EngineRequest,
  EngineSession,
  EngineState,
  FindRequest,
  Identified,
  IdentifyRequest,
  Ingested,
  MemoryUse,
  IngestProgress,
  IngestRequest,
  SessionRequest,
} from './protocol.ts';

/** What the process is started with, and the logger of this side, which does not cross. */
export interface StartEngineOptions extends EngineOptions {
  readonly logger: Logger;
}

/** An engine process as the server sees it: restarted when it dies. */
export interface SupervisedEngine extends Engine {
  /** Resolves when the engine is ready for the first time, rejects if its first start fails. */
  readonly ready: Promise<EngineInfo>;
  /** Of the running process, for tests and operators. */
  readonly pid: number | undefined;
}

/** First and longest wait before a restart, and after how long a run counts as stable. */
const restart = { firstMs: 250, longestMs: 10_000, stableMs: 60_000 };

/** How long an engine may take to close its store before it is killed. */
const shutdownMs = 5_000;

/** Forks an engine process. It is restarted with backoff until `close`. */
export function startEngine(options: StartEngineOptions): SupervisedEngine {
  return new EngineClient(options);
}

interface Pending {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: ReadonceError) => void;
  readonly onProgress?: ((progress: IngestProgress) => void) | undefined;
  readonly onText?: ((text: string) => void) | undefined;
}

type Call = Extract<EngineRequest, { readonly args: unknown }>;
type CallBody = Call extends infer C ? (C extends Call ? Omit<C, 'requestId'> : never) : never;

class EngineClient implements SupervisedEngine {
  readonly ready: Promise<EngineInfo>;
  readonly #options: EngineOptions;
  readonly #logger: Logger;
  readonly #pending = new Map<number, Pending>();
  #child: ChildProcess | undefined;
  #state: EngineState = 'starting';
  #info: EngineInfo | undefined;
  #nextRequestId = 1;
  #backoffMs = restart.firstMs;
  #restartTimer: NodeJS.Timeout | undefined;
  #closed: Promise<void> | undefined;
  #onEnded = (): void => undefined;
  #firstStart: { resolve: (info: EngineInfo) => void; reject: (error: Error) => void } | undefined;

  constructor({ logger, ...options }: StartEngineOptions) {
    this.#options = options;
    this.#logger = logger;
    this.ready = new Promise((resolve, reject) => {
      this.#firstStart = { resolve, reject };
    });
    // Whoever does not wait for the first start learns of it by `state`.
    this.ready.catch(() => undefined);
    this.#spawn();
  }

  get state(): EngineState {
    return this.#state;
  }

  get info(): EngineInfo | undefined {
    return this.#info;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  async identify(request: IdentifyRequest, signal?: AbortSignal): Promise<Identified> {
    return (await this.#call({ op: 'identify', args: request }, { signal })) as Identified;
  }

  async find(request: FindRequest, signal?: AbortSignal): Promise<readonly StoredContext[]> {
    const body: CallBody = { op: 'find', args: request };
    return (await this.#call(body, { signal })) as readonly StoredContext[];
  }

  async ingest(
    request: IngestRequest,
    onProgress: (progress: IngestProgress) => void,
    signal?: AbortSignal,
  ): Promise<Ingested> {
    const body: CallBody = { op: 'ingest', args: request };
    return (await this.#call(body, { signal, onProgress })) as Ingested;
  }

  async query(
    request: EngineQuery,
    onText: (text: string) => void,
    signal?: AbortSignal,
  ): Promise<EngineAnswer> {
    return (await this.#call({ op: 'query', args: request }, { signal, onText })) as EngineAnswer;
  }

  async openSession(request: SessionRequest): Promise<EngineSession> {
    return (await this.#call({ op: 'open-session', args: request }, {})) as EngineSession;
  }

  async session(sessionId: string): Promise<EngineSession> {
    return (await this.#call({ op: 'session', args: { sessionId } }, {})) as EngineSession;
  }

  async closeSession(sessionId: string): Promise<void> {
    await this.#call({ op: 'close-session', args: { sessionId } }, {});
  }

  async unload(contextId: string): Promise<void> {
    await this.#call({ op: 'unload', args: { contextId } }, {});
  }

  async deviceMemory(): Promise<MemoryUse | undefined> {
    return (await this.#call({ op: 'device-memory', args: null }, {})) as MemoryUse | undefined;
  }

  close(): Promise<void> {
    this.#closed ??= this.#end();
    return this.#closed;
  }

  async #end(): Promise<void> {
    clearTimeout(this.#restartTimer);
    const child = this.#child;
    if (child === undefined) return;
    const ended = new Promise<void>((resolve) => {
      this.#onEnded = resolve;
    });
    if (child.connected) child.send({ op: 'shutdown' } satisfies EngineRequest);
    const timer = setTimeout(() => child.kill('SIGKILL'), shutdownMs);
    await ended;
    clearTimeout(timer);
  }

  #spawn(): void {
    const child = forkEngine();
    const startedMs = Date.now();
    this.#child = child;
    this.#state = 'starting';
    child.on('message', (message) => this.#receive(message as EngineReply));
    const ended = (exitCode: number | null, exitSignal: string | null): void => {
      const stable = Date.now() - startedMs > restart.stableMs;
      this.#ended({ exitCode, exitSignal, stable });
    };
    child.on('error', (error) => {
      this.#logger.error({ err: error }, 'engine process error');
      // A process that could not be made has no exit.
      if (child.pid === undefined) ended(null, null);
    });
    child.on('exit', (exitCode, exitSignal) => {
      // What it said last may still be in the channel.
      if (child.connected) child.once('disconnect', () => ended(exitCode, exitSignal));
      else ended(exitCode, exitSignal);
    });
    child.send({ op: 'start', options: this.#options } satisfies EngineRequest);
  }

  #ended(end: {
    readonly exitCode: number | null;
    readonly exitSignal: string | null;
    readonly stable: boolean;
  }): void {
    this.#state = 'unavailable';
    this.#child = undefined;
    if (end.stable) this.#backoffMs = restart.firstMs;
    const error = this.#unavailable('The engine process ended');
    for (const pending of this.#pending.values()) pending.reject(error);
    this.#pending.clear();
    const wasReady = this.#firstStart === undefined;
    this.#firstStart?.reject(error);
    this.#firstStart = undefined;
    this.#onEnded();
    if (this.#closed !== undefined) return;
    this.#logger.error({ ...end, restartMs: this.#backoffMs }, 'engine process ended');
    // A model that cannot be opened at all is for the operator to mend, not for a retry.
    if (!wasReady) return;
    this.#restartTimer = setTimeout(() => this.#spawn(), this.#backoffMs);
    this.#backoffMs = Math.min(this.#backoffMs * 2, restart.longestMs);
  }

  #receive(reply: EngineReply): void {
    switch (reply.kind) {
      case 'ready':
        this.#state = 'ready';
        this.#info = reply.info;
        this.#firstStart?.resolve(reply.info);
        this.#firstStart = undefined;
        return;
      case 'failed-to-start': {
        const error = ReadonceError.fromJSON(reply.error);
        this.#logger.error({ err: error }, 'engine failed to start');
        this.#firstStart?.reject(error);
        return;
      }
      case 'progress':
        this.#pending.get(reply.requestId)?.onProgress?.(reply.progress);
        return;
      case 'text':
        this.#pending.get(reply.requestId)?.onText?.(reply.text);
        return;
      case 'result':
        this.#take(reply.requestId).resolve(reply.result);
        return;
      case 'error':
        this.#take(reply.requestId).reject(ReadonceError.fromJSON(reply.error));
        return;
    }
  }

  #take(requestId: number): Pending {
    const pending = defined(this.#pending.get(requestId), `request ${requestId}`);
    this.#pending.delete(requestId);
    return pending;
  }

  #call(
    body: CallBody,
    {
      signal,
      ...listeners
    }: { readonly signal?: AbortSignal | undefined } & Pick<Pending, 'onProgress' | 'onText'>,
  ): Promise<unknown> {
    signal?.throwIfAborted();
    const child = this.#child;
    const isOpen = this.#closed === undefined && child?.connected === true;
    if (!isOpen || this.#state !== 'ready') {
      return Promise.reject(this.#unavailable('The engine is not ready'));
    }
    const requestId = this.#nextRequestId++;
    const request = { ...body, requestId } as EngineRequest;
    const cancel = (): void => {
      if (child.connected) child.send({ op: 'cancel', requestId } satisfies EngineRequest);
    };
    signal?.addEventListener('abort', cancel, { once: true });
    return new Promise<unknown>((resolve, reject) => {
      this.#pending.set(requestId, { ...listeners, resolve, reject });
      child.send(request);
    }).finally(() => signal?.removeEventListener('abort', cancel));
  }

  #unavailable(message: string): ReadonceError {
    const retryAfterSeconds = Math.max(1, Math.ceil(this.#backoffMs / 1000));
    return new ReadonceError('engine_unavailable', `${message}: try again shortly`, {
      retryAfterSeconds,
    });
  }
}

/** From source the child needs the same loader as we do; compiled code needs none. */
function forkEngine(): ChildProcess {
  const extension = extname(fileURLToPath(import.meta.url));
  assert(extension === '.ts' || extension === '.js', `unexpected module type ${extension}`);
  const entry = fileURLToPath(new URL(`./main${extension}`, import.meta.url));
  return fork(entry, {
    serialization: 'advanced',
    execArgv: extension === '.ts' ? ['--import', 'tsx'] : [],
    stdio: ['ignore', 2, 2, 'ipc'],
  });
}
