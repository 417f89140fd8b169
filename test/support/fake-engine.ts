import { budgets, scoringMethods } from '../../src/compression/registry.ts';
import type { StoredContext } from '../../src/core/context.ts';
import { defined } from '../../src/core/assert.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import { contextId, familyId, type ContextIdentity } from '../../src/core/identity.ts';
import type {
  Engine,
  EngineAnswer,
  EngineInfo,
  EngineQuery,
  EngineSession,
  EngineState,
  FindRequest,
  Identified,
  IdentifyRequest,
  Ingested,
  IngestProgress,
  IngestRequest,
  MemoryUse,
  SessionRequest,
} from '../../src/engine/protocol.ts';
import type { FakeStore } from './fake-store.ts';

const layout = { layers: 2, kvHeads: 3, group: 2, headDim: 4 };
const prefixTokens = 5;

/** A promise that a test opens when it wants the engine to go on. */
export class Gate {
  readonly opened: Promise<void>;
  #open: () => void = () => undefined;

  constructor() {
    this.opened = new Promise((resolve) => {
      this.#open = resolve;
    });
  }

  open(): void {
    this.#open();
  }

  /** Waits for the gate, or rejects when `signal` aborts. */
  async pass(signal: AbortSignal | undefined): Promise<void> {
    const aborted = new Promise<never>((_, reject) => {
      const stop = () => reject(new ReadonceError('internal', 'aborted'));
      if (signal?.aborted === true) stop();
      signal?.addEventListener('abort', stop);
    });
    await Promise.race([this.opened, aborted]);
  }
}

/**
 * An engine without a model: a token is a character, an answer is the last question turned round.
 * Gates hold its work back; `failure` is thrown by the next call.
 */
export class FakeEngine implements Engine {
  state: EngineState = 'ready';
  info: EngineInfo | undefined = {
    modelId: 'fake',
    modelDescription: 'Answers with the question turned round.',
    fingerprint: 'sha256:fake',
    contextLength: 1000,
    layout,
    device: 'cpu',
  };
  /** Of a GPU; an error: why it cannot be told. */
  memory: MemoryUse | Error | undefined;
  identifies = 0;
  finds = 0;
  /** Whether what is ingested is derived from a stored context. */
  derives = false;
  ingests = 0;
  readonly queries: EngineQuery[] = [];
  readonly unloaded: string[] = [];
  /** Open ones, by id; a test ends one as its time would by deleting it. */
  readonly sessions = new Map<string, EngineSession>();
  /** Milliseconds of wall time, for sessions. */
  nowMs = () => Date.now();
  /** Signals of ingestions and queries that were aborted. */
  aborted = 0;
  ingestGate: Gate | undefined;
  /** Holds a query back after its first piece of text. */
  textGate: Gate | undefined;
  /** Holds a query back before its first piece of text. */
  queryGate: Gate | undefined;
  ingestFailure: ReadonceError | undefined;
  queryFailure: ReadonceError | undefined;
  /** Thrown after the first piece of text. */
  lateQueryFailure: Error | undefined;
  readonly #store: FakeStore;

  constructor(store: FakeStore) {
    this.#store = store;
  }

  deviceMemory(): Promise<MemoryUse | undefined> {
    return this.memory instanceof Error
      ? Promise.reject(this.memory)
      : Promise.resolve(this.memory);
  }

  async identify(request: IdentifyRequest): Promise<Identified> {
    this.#checkAlive();
    this.identifies++;
    if (request.document.length > 1_000_000) {
      throw new ReadonceError('context_too_long', `Expected fewer than 1000 tokens but got more.`);
    }
    const id = fakeId(request);
    return {
      id,
      prefixTokens,
      documentTokens: request.document.length,
      stored: this.#store.contexts.get(id),
    };
  }

  async find(request: FindRequest): Promise<readonly StoredContext[]> {
    this.#checkAlive();
    this.finds++;
    return [...scoringMethods.keys()].flatMap((method) =>
      [...budgets.keys()].flatMap((budget) => {
        const compression = { method, budget, keepRatio: 1, precision: 'f16' };
        return this.#store.family(familyId(fakeIdentity({ ...request, compression })));
      }),
    );
  }

  async ingest(
    request: IngestRequest,
    onProgress: (progress: IngestProgress) => void,
    signal?: AbortSignal,
  ): Promise<Ingested> {
    this.#checkAlive();
    this.#countAborts(signal);
    if (this.derives) return { stored: await this.#write(request), derived: true, found: false };
    this.ingests++;
    const total = request.document.length;
    onProgress({ phase: 'prefill', done: total, total });
    await this.ingestGate?.pass(signal);
    if (this.ingestFailure !== undefined) throw this.ingestFailure;
    onProgress({ phase: 'score', done: total, total });
    onProgress({ phase: 'persist', done: 6, total: 6 });
    return { stored: await this.#write(request), derived: false, found: false };
  }

  async query(
    request: EngineQuery,
    onText: (text: string) => void,
    signal?: AbortSignal,
  ): Promise<EngineAnswer> {
    this.#checkAlive();
    // As the real one: what is aborted before it is sent fails with the signal's reason.
    signal?.throwIfAborted();
    this.queries.push(request);
    this.#countAborts(signal);
    if (this.queryFailure !== undefined) throw this.queryFailure;
    const answer = lastTurn(request).split('').reverse().join('');
    try {
      await this.queryGate?.pass(signal);
      onText(answer.slice(0, 1));
      await this.textGate?.pass(signal);
    } catch {
      return fakeAnswer(request, '', 'cancelled');
    }
    if (this.lateQueryFailure !== undefined) throw this.lateQueryFailure;
    onText(answer.slice(1));
    if (request.source.kind === 'session') {
      this.#answerInSession(request.source.sessionId, lastTurn(request).length + answer.length);
    }
    return fakeAnswer(request, answer, 'stop');
  }

  async openSession(request: SessionRequest): Promise<EngineSession> {
    this.#checkAlive();
    const nowMs = this.nowMs();
    const session = {
      id: `ses_${String(this.sessions.size + 1).padStart(32, '0')}`,
      contextId: request.contextId,
      tenant: request.tenant,
      keepRatio: request.keepRatio ?? 0.3,
      turns: 0,
      tokens: 0,
      createdAtMs: nowMs,
      lastUsedAtMs: nowMs,
      expiresAtMs: nowMs + request.ttlMs,
    };
    this.sessions.set(session.id, session);
    return session;
  }

  async session(sessionId: string): Promise<EngineSession> {
    this.#checkAlive();
    const session = this.sessions.get(sessionId);
    if (session !== undefined) return session;
    throw new ReadonceError('not_found', `Expected a session but got ${sessionId}.`);
  }

  async closeSession(sessionId: string): Promise<void> {
    await this.session(sessionId);
    this.sessions.delete(sessionId);
  }

  async unload(id: string): Promise<void> {
    this.#checkAlive();
    this.unloaded.push(id);
    for (const session of this.sessions.values()) {
      if (session.contextId === id) this.sessions.delete(session.id);
    }
  }

  async close(): Promise<void> {}

  #checkAlive(): void {
    if (this.state === 'ready') return;
    throw new ReadonceError('engine_unavailable', 'The engine is being restarted.', {
      retryAfterSeconds: 3,
    });
  }

  #answerInSession(sessionId: string, tokens: number): void {
    const session = defined(this.sessions.get(sessionId), 'the session');
    this.sessions.set(sessionId, {
      ...session,
      turns: session.turns + 1,
      tokens: session.tokens + tokens,
      lastUsedAtMs: this.nowMs(),
    });
  }

  #countAborts(signal: AbortSignal | undefined): void {
    signal?.addEventListener('abort', () => this.aborted++);
  }

  #write(request: IngestRequest): Promise<StoredContext> {
    const id = fakeId(request);
    const tokens = request.document.length;
    const kept = Math.round(request.compression.keepRatio * tokens);
    const { createdAtMs, usage } = request;
    const { ttlMs, pinned, labels } = usage;
    const expiresAtMs = ttlMs === null ? null : this.nowMs() + ttlMs;
    return this.#store.write({
      record: {
        id,
        family: familyId(fakeIdentity(request)),
        tenant: request.tenant,
        model: { id: 'fake', fingerprint: 'sha256:fake' },
        document: { bytes: Buffer.byteLength(request.document), tokens, sha256: 'fake' },
        compression: request.compression,
        methodVersion: 1,
        chunkTokens: 0,
        fidelity: null,
        layout,
        prefixTokens,
        pairCounts: Array.from({ length: 6 }, () => prefixTokens + kept),
        createdAtMs,
      },
      timings: () => ({ prefillMs: 1, scoreMs: 2, persistMs: 3, totalMs: 6 }),
      usage: { expiresAtMs, pinned, labels, lastUsedAtMs: createdAtMs },
      prefixIds: new Int32Array(prefixTokens),
      documentIds: new Int32Array(tokens),
      encodedBytes: (rows) => rows,
      pairs: () => ({ rows: 0, keys: new Uint8Array(), values: new Uint8Array() }),
      ranking: (head) => ({
        positions: Uint32Array.from({ length: kept }, (_, i) => kept - 1 - i),
        scores: Float32Array.from({ length: kept }, (_, i) => head + (kept - i) / 4),
      }),
    });
  }
}

function fakeId(request: IdentifyRequest): string {
  return contextId(fakeIdentity(request));
}

function fakeIdentity(request: IdentifyRequest): ContextIdentity {
  const { tenantSalt, document, instructions, compression } = request;
  const codes = (text: string) => Int32Array.from(text, (char) => char.codePointAt(0) ?? 0);
  return {
    tenantSalt,
    modelFingerprint: 'sha256:fake',
    prefixIds: codes(instructions ?? ''),
    documentIds: codes(document),
    compression,
    methodVersion: 1,
    chunkTokens: 0,
  };
}

function fakeAnswer(
  request: EngineQuery,
  answer: string,
  finishReason: EngineAnswer['finishReason'],
): EngineAnswer {
  const queryTokens = request.turns.reduce((sum, { content }) => sum + content.length, 0);
  const { source } = request;
  const isPrompt = source.kind === 'prompt';
  const contextTokens = isPrompt ? (source.document?.length ?? 0) : 10;
  return {
    answer,
    finishReason,
    usage: {
      contextTokens,
      queryTokens,
      completionTokens: answer.length,
      prefilledTokens: queryTokens + (isPrompt ? contextTokens : 0),
    },
    cache: isPrompt
      ? { source: 'none', keepRatio: 1, pairs: 0, bytes: 0 }
      : { source: 'disk', keepRatio: askedRatio(request) ?? 0.3, pairs: 60, bytes: 960 },
    timings: { queueMs: 1, loadMs: 2, firstTokenMs: 3, totalMs: 4, tokensPerSecond: 5 },
  };
}

function lastTurn({ turns }: EngineQuery): string {
  return turns.at(-1)?.content ?? '';
}

function askedRatio({ source }: EngineQuery): number | undefined {
  return source.kind === 'context' ? source.keepRatio : undefined;
}
