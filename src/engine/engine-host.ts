import { systemClock } from '../core/clock.ts';
import type { CompressionSpec } from '../core/compression-spec.ts';
import type { StoredContext } from '../core/context.ts';
import { ReadonceError } from '../core/errors.ts';
import { kvLayout } from '../model/config.ts';
import type { Checkpoint } from '../model/checkpoint.ts';
import { deviceLabel, type ChosenDevice } from '../runtime/choose-device.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { Logger } from '../observability/logger.ts';
import { openContextStore } from '../../storage/open-store.ts';
import type { ContextStore, Fault } from '../../storage/context-store.ts';
import { faultOf } from '../../storage/fault.ts';
import { answer, type AnswerCall } from './answer.ts';
import { derive } from './derive.ts';
import { findContext, usedKeepRatio } from './find-context.ts';
import { familiesOf, sameTokens, tokenizeDocument, type TokenizedDocument } from './document.ts';
import { ingest, type IngestCall } from './ingest.ts';
import { KeyedQueue } from './keyed-queue.ts';
import { LoadedContexts } from './loaded-contexts.ts';
import { readingQueue } from './prompt-context.ts';
import type {
  EngineAnswer,
  EngineInfo,
  EngineOptions,
  EngineSession,
  FindRequest,
  Identified,
  IdentifyRequest,
  Ingested,
  MemoryUse,
  SessionRequest,
} from './protocol.ts';
import { readerThreads } from './reader-threads.ts';
import { rememberTokens } from './remembered-tokens.ts';
import { placeModel, startModel, type RunningModel } from './running-model.ts';
import { Scheduler } from './scheduler.ts';
import { Sessions } from './sessions.ts';

type EngineLimits = Pick<EngineOptions, 'maxRunningQueries' | 'maxQueryWaitMs' | 'maxSessions'>;

/** Needs the least room of all: what fits in no other way fits in this. */
const keepAll: CompressionSpec = {
  method: 'none',
  keepRatio: 1,
  budget: 'global',
  precision: 'f16',
};

/** Characters that are tokenised before anybody would notice. */
const shortDocument = 1024;

/** What an engine process does, without the process: owns the model and the loaded contexts. */
export class EngineHost {
  readonly #checkpoint: Checkpoint;
  readonly #runtime: Runtime;
  readonly #device: ChosenDevice;
  readonly #store: ContextStore;
  readonly #queue = new KeyedQueue();
  readonly #scheduler: Scheduler;
  readonly #loaded: LoadedContexts;
  readonly #sessions: Sessions;
  readonly #maxWaitMs: number;
  /** Calls that hold caches or write to the store. */
  readonly #running = new Set<Promise<unknown>>();
  readonly #logger: Logger;
  #closed: Promise<void> | undefined;

  private constructor(
    parts: RunningModel & { readonly store: ContextStore; readonly logger: Logger },
    options: EngineLimits,
  ) {
    const tokenizer = rememberTokens(parts.checkpoint.tokenizer);
    this.#checkpoint = { ...parts.checkpoint, tokenizer };
    this.#store = parts.store;
    this.#logger = parts.logger;
    this.#runtime = parts.runtime;
    this.#device = parts.device;
    const { runtime } = parts;
    this.#maxWaitMs = options.maxQueryWaitMs;
    const loaded = new LoadedContexts(parts);
    this.#loaded = loaded;
    this.#scheduler = new Scheduler({
      runtime,
      clock: systemClock,
      withRoom: (call) => loaded.withRoom(call),
      maxRunning: options.maxRunningQueries,
      maxWaitMs: this.#maxWaitMs,
    });
    this.#sessions = new Sessions({
      runtime,
      loaded: this.#loaded,
      clock: systemClock,
      maxSessions: options.maxSessions,
    });
  }

  /** @throws ReadonceError of the device, the model, the store or the runtime */
  static async start(options: EngineOptions, logger: Logger): Promise<EngineHost> {
    const placed = await placeModel({ options, logger });
    const store = await openContextStore({
      folder: options.storeFolder,
      maxBytes: options.storeMaxBytes,
      log: logger,
      readerThreads: readerThreads(),
    });
    try {
      // An engine that died leaves its work half-done, and its server may live on.
      await store.sweep();
      const model = await startModel(placed, { options, logger });
      return new EngineHost({ ...model, store, logger }, options);
    } catch (error) {
      await store.close();
      throw error;
    }
  }

  get info(): EngineInfo {
    const { id, description, fingerprint, config } = this.#checkpoint;
    return {
      modelId: id,
      modelDescription: description,
      fingerprint,
      contextLength: config.contextLength,
      layout: kvLayout(config),
      device: deviceLabel(this.#device),
    };
  }

  /**
   * Names the context a document becomes, and finds it if it is stored and sound. One that is
   * damaged is quarantined, so that the PUT rebuilds it.
   */
  async identify(request: IdentifyRequest, signal: AbortSignal): Promise<Identified> {
    const document = await this.#tokenize(request, signal);
    const { id, prefixIds, documentIds } = document;
    const fault = this.#findFault(id, document);
    if (fault !== undefined) this.#quarantine(id, fault);
    return {
      id,
      prefixTokens: prefixIds.length,
      documentTokens: documentIds.length,
      stored: this.#store.get(id),
    };
  }

  /** The owner's contexts of a document, however compressed; damaged ones are quarantined. */
  async find(request: FindRequest, signal: AbortSignal): Promise<readonly StoredContext[]> {
    const document = await this.#tokenize({ ...request, compression: keepAll }, signal);
    const contexts = familiesOf(this.#checkpoint, request, document)
      .flatMap((family) => this.#store.family(family))
      .filter(({ record }) => record.tenant === request.tenant);
    return contexts.filter(({ record: { id } }) => {
      const fault = this.#findFault(id, document);
      if (fault !== undefined) this.#quarantine(id, fault);
      return fault === undefined;
    });
  }

  /** Whether what is stored under an id fails a check, or is another document's. */
  #findFault(id: string, document: TokenizedDocument): Fault | undefined {
    try {
      if (this.#store.get(id) === undefined) return undefined;
      const same = sameTokens(this.#store.tokenIds(id), document);
      return same ? undefined : { reason: 'token ids of another document' };
    } catch (error) {
      if (isCorruption(error)) return faultOf(error);
      throw error;
    }
  }

  /** What failed a check is never answered from again; a PUT of its document rebuilds it. */
  #quarantine(contextId: string, fault: Fault): void {
    this.#logger.error({ contextId, ...fault }, 'stored context is damaged');
    this.#loaded.drop(contextId);
    this.#store.quarantine(contextId, fault);
  }

  /**
   * Stores a document: derived from a stored context if there is one that has all its pairs, else
   * read by the model. The model reads one document after another, since each holds a dense cache.
   */
  ingest(call: Omit<IngestCall, 'document'>): Promise<Ingested> {
    return this.#track(this.#ingest(call));
  }

  async #ingest(call: Omit<IngestCall, 'document'>): Promise<Ingested> {
    const document = await this.#tokenize(call.request, call.signal);
    const documentCall = { ...call, document };
    const derived = await this.#derive(documentCall);
    if (derived !== undefined) return derived;
    // Servers that share the store read a document once.
    const reserved = await this.#store.reserve(document.id, call.signal);
    if ('record' in reserved) return { stored: reserved, derived: false, found: true };
    try {
      return await this.#read(documentCall);
    } finally {
      reserved.release();
    }
  }

  #read(documentCall: IngestCall): Promise<Ingested> {
    return this.#queue.run(
      { key: readingQueue, tenant: documentCall.request.tenant },
      async () => {
        // What this one waited for may have been the same document with more pairs.
        const late = await this.#derive(documentCall);
        if (late !== undefined) return late;
        const dependencies = {
          checkpoint: this.#checkpoint,
          runtime: this.#runtime,
          loaded: this.#loaded,
          store: this.#store,
          scheduler: this.#scheduler,
          clock: systemClock,
          sliceTokens: this.#runtime.sliceTokens,
        };
        const stored = await ingest(dependencies, documentCall);
        return { stored, derived: false, found: false };
      },
      documentCall.signal,
    );
  }

  async #derive(call: IngestCall): Promise<Ingested | undefined> {
    const dependencies = {
      checkpoint: this.#checkpoint,
      store: this.#store,
      clock: systemClock,
      onUnusable: (contextId: string, error: ReadonceError) => {
        this.#logger.warn({ err: error, contextId }, 'a stored context could not be derived from');
        if (isCorruption(error)) this.#quarantine(contextId, faultOf(error));
      },
    };
    const stored = await derive(dependencies, call);
    return stored === undefined ? undefined : { stored, derived: true, found: false };
  }

  async answer(call: AnswerCall): Promise<EngineAnswer> {
    const dependencies = {
      checkpoint: this.#checkpoint,
      runtime: this.#runtime,
      store: this.#store,
      scheduler: this.#scheduler,
      loaded: this.#loaded,
      sessions: this.#sessions,
      queue: this.#queue,
      clock: systemClock,
      maxWaitMs: this.#maxWaitMs,
      sliceTokens: this.#runtime.sliceTokens,
    };
    return this.#track(this.#noteDamage(this.#contextOf(call), answer(dependencies, call)));
  }

  /** @throws ReadonceError as a query of the context does, `overloaded` */
  openSession({ contextId, keepRatio, tenant, ttlMs }: SessionRequest): EngineSession {
    const parts = { store: this.#store, checkpoint: this.#checkpoint };
    const record = findContext(parts, contextId);
    const used = usedKeepRatio(record, keepRatio);
    return this.#sessions.open({ record, keepRatio: used, tenant, ttlMs });
  }

  /** @throws ReadonceError `not_found` */
  session(sessionId: string): EngineSession {
    return this.#sessions.get(sessionId).view;
  }

  /** @throws ReadonceError `not_found` */
  closeSession(sessionId: string): void {
    this.#sessions.end(sessionId);
  }

  /** Forgets a loaded context, and ends its sessions. */
  unload(contextId: string): void {
    this.#sessions.endOf(contextId);
    this.#loaded.drop(contextId);
  }

  /** The memory of the model's GPU, whoever uses it; undefined on the CPU. */
  deviceMemory(): MemoryUse | undefined {
    return this.#runtime.deviceMemory?.();
  }

  /** Whether an error tells of a device that this process can no longer use. */
  isDeviceLost(error: unknown): boolean {
    return this.#runtime.isDeviceLost?.(error) ?? false;
  }

  /** Refuses what waits for the device; the calls that run end at their next piece of work. */
  close(): Promise<void> {
    this.#closed ??= this.#end();
    return this.#closed;
  }

  async #end(): Promise<void> {
    this.#scheduler.close();
    await Promise.allSettled(this.#running);
    try {
      this.#sessions.close();
      this.#loaded.close();
      this.#runtime.close();
    } finally {
      await this.#store.close();
    }
  }

  async #noteDamage<T>(contextId: string, call: Promise<T>): Promise<T> {
    try {
      return await call;
    } catch (error) {
      if (isCorruption(error)) this.#quarantine(contextId, faultOf(error));
      throw error;
    }
  }

  /** The stored context that a query is asked of. */
  #contextOf({ query: { source } }: AnswerCall): string {
    if (source.kind === 'context') return source.contextId;
    if (source.kind === 'session') return this.#sessions.get(source.sessionId).record.id;
    return '';
  }

  /** Long documents take as long as steps of answers do: it is done when there is time for it. */
  async #tokenize(request: IdentifyRequest, signal: AbortSignal): Promise<TokenizedDocument> {
    signal.throwIfAborted();
    const tokenize = (): TokenizedDocument => tokenizeDocument(this.#checkpoint, request);
    if (request.document.length < shortDocument) return tokenize();
    return this.#scheduler.piece(tokenize, signal);
  }

  /** Remembers a call until it settles. */
  #track<T>(call: Promise<T>): Promise<T> {
    this.#running.add(call);
    const forget = (): void => {
      this.#running.delete(call);
    };
    call.then(forget, forget);
    return call;
  }
}

function isCorruption(error: unknown): error is ReadonceError {
  return error instanceof ReadonceError && error.code === 'corrupt_record';
}
