import { availableParallelism } from 'node:os';
import { systemClock } from '../core/clock.ts';
import { ReadonceError } from '../core/errors.ts';
import { loadCheckpoint } from '../model/load.ts';
import type { Checkpoint } from '../model/checkpoint.ts';
import { createOrtCpuRuntime } from '../runtime/ort/cpu-runtime.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { Logger } from '../observability/logger.ts';
import { openContextStore } from '../../storage/open-store.ts';
import type { ContextStore } from '../../storage/context-store.ts';
import { answer, type AnswerCall } from './answer.ts';
import { DeviceTurns } from './device-turns.ts';
import { tokenizeDocument, type TokenizedDocument } from './document.ts';
import { ingest, type IngestCall } from './ingest.ts';
import { KeyedQueue } from './keyed-queue.ts';
import { LoadedContexts } from './loaded-contexts.ts';
import type {
  EngineAnswer,
  EngineInfo,
  EngineOptions,
  Identified,
  IdentifyRequest,
} from './protocol.ts';
import { Stepper } from './stepper.ts';
import type { StoredContext } from '../core/context.ts';

/**
 * Tokens of one piece of work. 256 keeps the attention logits of a 135M model over 8,192 rows under
 * 80 MB and matrix products near their full speed; a running answer waits at most one piece.
 */
const sliceTokens = 256;

/** What an engine process does, without the process: owns the model and the loaded contexts. */
export class EngineHost {
  readonly #checkpoint: Checkpoint;
  readonly #runtime: Runtime;
  readonly #store: ContextStore;
  readonly #turns = new DeviceTurns();
  readonly #queue = new KeyedQueue();
  readonly #stepper: Stepper;
  readonly #loaded: LoadedContexts;
  /** Calls that hold caches or write to the store. */
  readonly #running = new Set<Promise<unknown>>();
  /** Contexts that failed a check when a query loaded them. */
  readonly #damaged = new Set<string>();
  readonly #logger: Logger;
  #closed: Promise<void> | undefined;

  private constructor(
    parts: {
      readonly checkpoint: Checkpoint;
      readonly store: ContextStore;
      readonly logger: Logger;
    },
    poolBytes: number,
  ) {
    this.#checkpoint = parts.checkpoint;
    this.#store = parts.store;
    this.#logger = parts.logger;
    this.#runtime = createOrtCpuRuntime(parts.checkpoint, { threads: availableParallelism() });
    this.#stepper = new Stepper(this.#runtime, this.#turns);
    this.#loaded = new LoadedContexts({ runtime: this.#runtime, store: parts.store, poolBytes });
  }

  /** @throws ReadonceError of the model, the store or the runtime */
  static async start(options: EngineOptions, logger: Logger): Promise<EngineHost> {
    const { model, cacheFolder } = options;
    const checkpoint = await loadCheckpoint({ model, cacheFolder, log: logger });
    const store = await openContextStore({
      folder: options.storeFolder,
      maxBytes: options.storeMaxBytes,
    });
    try {
      const host = new EngineHost({ checkpoint, store, logger }, options.poolBytes);
      host.#runtime.warm();
      return host;
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
      device: 'cpu',
    };
  }

  /**
   * Names the context a document becomes, and finds it if it is stored and sound. One that is
   * damaged is removed, so that the PUT rebuilds it.
   */
  async identify(request: IdentifyRequest): Promise<Identified> {
    const document = tokenizeDocument(this.#checkpoint, request);
    const { id, prefixIds, documentIds } = document;
    if (this.#isDamaged(document)) {
      this.#logger.error({ contextId: id }, 'stored context is damaged: removed to be rebuilt');
      this.#loaded.drop(id);
      await this.#store.delete(id);
      this.#damaged.delete(id);
    }
    return {
      id,
      prefixTokens: prefixIds.length,
      documentTokens: documentIds.length,
      stored: this.#store.get(id),
    };
  }

  /** Whether what is stored under a document's id fails a check, or is another document's. */
  #isDamaged({ id, prefixIds, documentIds }: TokenizedDocument): boolean {
    if (this.#damaged.has(id)) return true;
    try {
      if (this.#store.get(id) === undefined) return false;
      const ids = this.#store.tokenIds(id);
      return !same(ids.prefixIds, prefixIds) || !same(ids.documentIds, documentIds);
    } catch (error) {
      if (isCorruption(error)) return true;
      throw error;
    }
  }

  /** Ingestions run one after another: each holds a dense cache. */
  ingest(call: IngestCall): Promise<StoredContext> {
    const dependencies = {
      checkpoint: this.#checkpoint,
      runtime: this.#runtime,
      store: this.#store,
      turns: this.#turns,
      clock: systemClock,
      sliceTokens,
    };
    return this.#track(
      this.#queue.run('ingestions', () => ingest(dependencies, call), call.signal),
    );
  }

  answer(call: AnswerCall): Promise<EngineAnswer> {
    const dependencies = {
      checkpoint: this.#checkpoint,
      runtime: this.#runtime,
      store: this.#store,
      turns: this.#turns,
      stepper: this.#stepper,
      loaded: this.#loaded,
      queue: this.#queue,
      clock: systemClock,
      sliceTokens,
    };
    return this.#track(this.#noteDamage(call.query.contextId, answer(dependencies, call)));
  }

  /** Forgets a loaded context. */
  unload(contextId: string): void {
    this.#loaded.drop(contextId);
  }

  /** Refuses what waits for the device; the calls that run end at their next piece of work. */
  close(): Promise<void> {
    this.#closed ??= this.#end();
    return this.#closed;
  }

  async #end(): Promise<void> {
    this.#turns.close();
    await Promise.allSettled(this.#running);
    this.#loaded.close();
    this.#runtime.close();
    await this.#store.close();
  }

  /** A context that failed a check is rebuilt by the next PUT of its document. */
  async #noteDamage<T>(contextId: string, call: Promise<T>): Promise<T> {
    try {
      return await call;
    } catch (error) {
      if (isCorruption(error)) this.#damaged.add(contextId);
      throw error;
    }
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

function isCorruption(error: unknown): boolean {
  return error instanceof ReadonceError && error.code === 'corrupt_record';
}

function same(a: Int32Array, b: Int32Array): boolean {
  return a.length === b.length && a.every((id, i) => id === b[i]);
}
