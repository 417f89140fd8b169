import { createHash } from 'node:crypto';
import { assert, defined } from '../core/assert.ts';
import type { StoredContext } from '../core/context.ts';
import { isDeadlineExceeded } from '../core/deadline.ts';
import { ReadonceError } from '../core/errors.ts';
import { untilAborted } from '../core/until-aborted.ts';
import type { IdentifyRequest, Identified, Ingested } from '../engine/protocol.ts';
import { Admission } from './admission.ts';
import { resolveCompression, type CompressionRequest } from './compression.ts';
import { pendingView, readyView, type ContextView, type PendingContext } from './context-view.ts';
import type { ServiceDeps } from './deps.ts';
import type { Ingestion } from './ingestion.ts';
import type { Ingestions } from './ingestions.ts';
import { invalidArgument } from './invalid-argument.ts';
import type { TenantSalts } from './tenant-salts.ts';
import { hasExpired, usageChange, type UsageRequest } from './usage-change.ts';

/** Times a PUT starts over because the context changed under its hands. */
const maxAttempts = 4;

/** What a client puts; what it leaves out comes from the configuration. */
export interface PutInput extends UsageRequest {
  /** Whose context it will be; '' without tenants. */
  readonly tenant: string;
  /** As the client sent it; trimmed here. */
  readonly document: string;
  readonly instructions: string | undefined;
  readonly compression: CompressionRequest;
}

/** How long the client waits. */
export interface PutOptions {
  /** False: answer as soon as the id is known. */
  readonly wait: boolean;
  /**
   * Stops identifying the document, and waiting. An ingestion goes on, since it is useful work and
   * others may wait for it.
   */
  readonly signal: AbortSignal;
}

/** The context as it is now, and who computed it. */
export interface PutResult {
  /**
   * `created`: this request ingested it, or had it derived from a stored one. `reused`: it was
   * stored, or another request ingested it. `accepted`: it is being ingested.
   */
  readonly outcome: 'created' | 'reused' | 'accepted';
  readonly context: ContextView;
}

/** One attempt: undefined if the context changed meanwhile and the PUT must start over. */
type Attempt = PutResult | undefined;

/** The use case behind `PUT /contexts`: one ingestion for an id, however many ask for it. */
export class PutContext {
  readonly #deps: ServiceDeps;
  readonly #ingestions: Ingestions;
  readonly #identifies: Admission;
  readonly #places: Admission;
  readonly #salts: TenantSalts;

  constructor(deps: ServiceDeps, ingestions: Ingestions, salts: TenantSalts) {
    const { maxQueuedIngests, maxTenantIngests, maxQueuedQueries } = deps.limits;
    this.#deps = deps;
    this.#ingestions = ingestions;
    this.#salts = salts;
    // Whoever may wait for an ingestion or an answer may wait for this, which comes before both.
    const all = maxQueuedIngests + maxQueuedQueries;
    this.#identifies = new Admission('documents being identified', { all });
    this.#places = new Admission('queued ingestions', {
      all: maxQueuedIngests,
      each: maxTenantIngests,
    });
  }

  /**
   * Finds the document's context or ingests it.
   * @throws ReadonceError `invalid_argument`, `unsupported`, `context_too_long`, `rate_limited`,
   *   `overloaded`, `engine_unavailable`, `storage_full`, `conflict` (deleted while it was being
   *   ingested); the reason of `signal`
   */
  async put(input: PutInput, options: PutOptions): Promise<PutResult> {
    const request = this.#identifyRequest(input);
    for (let attempt = 1; attempt <= maxAttempts; attempt++) {
      const identified = await this.#identify(request, options.signal);
      const result =
        identified.stored === undefined
          ? await this.#joinOrStart(request, identified, { usage: input, ...options })
          : await this.#reuse(identified.stored, input);
      if (result !== undefined) return result;
    }
    throw new ReadonceError(
      'conflict',
      'Expected the context to stay as it is while it was put but others kept changing it. ' +
        'Try again.',
      { retryAfterSeconds: 1 },
    );
  }

  /** @throws the reason of `signal`, if it aborted meanwhile */
  async #identify(request: IdentifyRequest, signal: AbortSignal): Promise<Identified> {
    const identified = await this.#identifies.run(request.tenant, () =>
      untilAborted(this.#deps.engine.identify(request, signal), signal),
    );
    signal.throwIfAborted();
    const owner = identified.stored?.record.tenant ?? request.tenant;
    assert(owner === request.tenant, 'expected salts to keep the ids of tenants apart');
    return identified;
  }

  #identifyRequest(input: PutInput): IdentifyRequest {
    const document = input.document.trim();
    if (document === '') {
      throw invalidArgument(
        'document',
        'Expected text for document but got nothing, or only white space.',
      );
    }
    return {
      tenant: input.tenant,
      tenantSalt: this.#salts.saltOf(input.tenant),
      document,
      instructions: input.instructions === '' ? undefined : input.instructions,
      compression: resolveCompression(input.compression, this.#deps.defaults),
    };
  }

  /** Answers from what is stored. An expired context is revived. */
  async #reuse(stored: StoredContext, request: UsageRequest): Promise<Attempt> {
    const nowMs = this.#deps.clock.nowMs();
    const revival = hasExpired(stored.usage, nowMs) ? { expiresAtMs: null } : {};
    const usage = { lastUsedAtMs: nowMs, ...revival, ...usageChange(request, nowMs) };
    const updated = await this.#deps.store.update(stored.record.id, usage);
    if (updated === undefined) return undefined;
    this.#deps.metrics.ingests.inc({ outcome: 'reused' });
    return { outcome: 'reused', context: readyView(updated, true) };
  }

  async #joinOrStart(
    request: IdentifyRequest,
    identified: Identified,
    { usage, wait, signal }: PutOptions & { readonly usage: UsageRequest },
  ): Promise<Attempt> {
    const running = this.#ingestions.running(identified.id);
    if (running?.cancelled !== undefined) {
      await running.settled();
      return undefined;
    }
    if (running !== undefined) {
      if (!running.changeUsage(usage, this.#deps.clock.nowMs())) {
        await running.settled();
        return undefined;
      }
      this.#deps.metrics.ingests.inc({ outcome: 'joined' });
      if (!wait) return accepted(running, true);
      const { stored } = await resultOf(running, signal);
      return { outcome: 'reused', context: readyView(stored, true) };
    }
    // It may have been stored since the engine looked: ask again rather than ingest twice.
    if (this.#deps.store.get(identified.id) !== undefined) return undefined;
    const started = this.#start(request, identified, usage);
    if (!wait) return accepted(started, false);
    const { stored, derived, found } = await resultOf(started, signal);
    if (found) return this.#reuse(stored, usage);
    return { outcome: 'created', context: readyView(stored, derived) };
  }

  #start(request: IdentifyRequest, identified: Identified, usage: UsageRequest): Ingestion {
    const { engine, store, clock } = this.#deps;
    this.#ingestions.checkOpen();
    const leave = this.#places.enter(request.tenant);
    const pending = this.#pendingContext(request, identified, usage);
    const { createdAtMs } = pending;
    const { ttlSeconds = null, pinned = false, labels = {} } = usage;
    const ttlMs = ttlSeconds === null ? null : ttlSeconds * 1000;
    const ingestRequest = { ...request, createdAtMs, usage: { ttlMs, pinned, labels } };
    return this.#ingestions.start(pending, {
      ingest: async (onProgress, signal) => {
        try {
          return await engine.ingest(ingestRequest, onProgress, signal);
        } finally {
          leave();
        }
      },
      update: (late) => store.update(pending.id, usageChange(late, clock.nowMs())),
    });
  }

  #pendingContext(
    request: IdentifyRequest,
    identified: Identified,
    usage: UsageRequest,
  ): PendingContext {
    const { engine, clock } = this.#deps;
    const info = defined(engine.info, 'the description of an engine that identified a document');
    const createdAtMs = clock.nowMs();
    const document = Buffer.from(request.document, 'utf8');
    return {
      id: identified.id,
      tenant: request.tenant,
      model: { id: info.modelId, fingerprint: info.fingerprint },
      document: {
        bytes: document.byteLength,
        tokens: identified.documentTokens,
        sha256: createHash('sha256').update(document).digest('hex'),
      },
      compression: request.compression,
      usage: {
        lastUsedAtMs: createdAtMs,
        expiresAtMs: null,
        pinned: false,
        labels: {},
        ...usageChange(usage, createdAtMs),
      },
      createdAtMs,
    };
  }
}

/** What an ingestion results in, if it is over before `signal` aborts. */
async function resultOf(ingestion: Ingestion, signal: AbortSignal): Promise<Ingested> {
  try {
    return await untilAborted(ingestion.result, signal);
  } catch (error) {
    if (!isDeadlineExceeded(error) || error !== signal.reason) throw error;
    const { id } = ingestion.pending;
    throw new ReadonceError(
      'deadline_exceeded',
      `${error.message} The document is still being ingested as ${id}, which goes on: put it ` +
        `again to wait for it, or follow GET /contexts/${id}/events.`,
      { cause: error },
    );
  }
}

function accepted(ingestion: Ingestion, reused: boolean): PutResult {
  return { outcome: 'accepted', context: pendingView(ingestion.pending, 'ingesting', reused) };
}
