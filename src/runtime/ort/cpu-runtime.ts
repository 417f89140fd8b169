import { dirname } from 'node:path';
import { assert, defined } from '../../core/assert.ts';
import type { KvLayout } from '../../core/kv-layout.ts';
import { denseGraph } from '../../graph/dense-graph.ts';
import type { GraphSource } from '../../graph/decoder-blocks.ts';
import { queryGraph } from '../../graph/query-graph.ts';
import { kvLayout, type ModelConfig } from '../../model/config.ts';
import { checkTogether } from '../forward-slots.ts';
import type {
  ContextCache,
  DenseCache,
  ForwardSlot,
  Runtime,
  ScoreSlice,
  Tail,
} from '../runtime.ts';
import { loadOrt } from './api.ts';
import { OrtDenseCache } from './dense-cache.ts';
import { DenseCall } from './dense-call.ts';
import { OrtContextCache, OrtContextView } from './context-cache.ts';
import { QueryCall, type OwnSlot } from './query-call.ts';
import { OrtEnvironment, type OrtSession } from './session.ts';
import { OrtTail, TailArena } from './tail-arena.ts';

/** What of the machine a runtime may use. */
export interface OrtCpuOptions {
  /** Threads of one operator. */
  readonly threads: number;
}

/**
 * ONNX Runtime on the CPU, float32. Sessions are made when first needed and share the mapped
 * weights.
 * @throws ReadonceError `engine_unavailable` if the library cannot be loaded
 */
export function createOrtCpuRuntime(source: GraphSource, options: OrtCpuOptions): Runtime {
  return new OrtCpuRuntime(source, options);
}

class OrtCpuRuntime implements Runtime {
  readonly name = 'ort-cpu';
  readonly config: ModelConfig;
  readonly layout: KvLayout;
  readonly #source: GraphSource;
  readonly #environment: OrtEnvironment;
  readonly #sessions = new Map<string, OrtSession>();
  #mask: { readonly tokens: number; readonly data: Float32Array } | undefined;
  readonly #arena: TailArena;
  /** By the number of contexts: a decode step repeats a call with other tokens. */
  readonly #queryCalls = new Map<number, QueryCall>();

  constructor(source: GraphSource, options: OrtCpuOptions) {
    this.config = source.config;
    this.layout = kvLayout(source.config);
    this.#source = source;
    this.#environment = new OrtEnvironment(loadOrt(), { ...options, tensors: source.tensors });
    this.#arena = new TailArena(this.#environment, this.layout);
  }

  warm(): void {
    this.#prefillSession();
    this.#scoreSession(false);
    this.#queryCall(1);
  }

  createDense(capacity: number): DenseCache {
    return new OrtDenseCache(this.#environment, this.layout, capacity);
  }

  createContext(lengths: Uint32Array): ContextCache {
    return new OrtContextCache(this.#environment, this.layout, lengths);
  }

  createTail(): Tail {
    return this.#arena.createTail();
  }

  prefill(cache: DenseCache, ids: Int32Array): void {
    const call = new DenseCall(this.#environment, this.#prefillSession(), ownDense(cache));
    using(call, () => call.run(ids));
  }

  score(cache: DenseCache, slice: ScoreSlice): Int32Array {
    const session = this.#scoreSession(slice.predict);
    const mask = this.#causalMask(slice.ids.length);
    return using(new DenseCall(this.#environment, session, ownDense(cache)), (call) =>
      call.score(slice, { mask, layout: this.layout }),
    );
  }

  forward(slots: readonly ForwardSlot[]): readonly Float32Array[] {
    checkTogether(slots);
    const own = slots.map(ownSlot);
    const results = new Map<OwnSlot, Float32Array>();
    for (const together of byContexts(own)) {
      const contexts = new Set(together.map(({ context }) => context)).size;
      const logits = this.#queryCall(roomFor(contexts)).run(together);
      for (const [i, slot] of together.entries()) results.set(slot, defined(logits[i], 'logits'));
    }
    return own.map((slot) => defined(results.get(slot), 'logits'));
  }

  close(): void {
    for (const call of this.#queryCalls.values()) call.close();
    this.#queryCalls.clear();
    this.#arena.close();
    for (const session of this.#sessions.values()) session.close();
    this.#sessions.clear();
    this.#environment.close();
  }

  #prefillSession(): OrtSession {
    return this.#session('prefill', () =>
      denseGraph(this.#source, { score: false, predict: false }),
    );
  }

  #scoreSession(predict: boolean): OrtSession {
    return this.#session(predict ? 'score+predict' : 'score', () =>
      denseGraph(this.#source, { score: true, predict }),
    );
  }

  #queryCall(contexts: number): QueryCall {
    let call = this.#queryCalls.get(contexts);
    if (call === undefined) {
      const author = (): Uint8Array => queryGraph(this.#source, { contexts });
      const session = this.#session(`query.${contexts}`, author);
      call = new QueryCall(session, { config: this.config, arena: this.#arena, contexts });
      this.#queryCalls.set(contexts, call);
    }
    return call;
  }

  #session(name: string, author: () => Uint8Array): OrtSession {
    let session = this.#sessions.get(name);
    if (session === undefined) {
      const [tensor] = this.#source.tensors.values();
      assert(tensor !== undefined, 'a model has tensors');
      session = this.#environment.createSession(author(), dirname(tensor.file));
      this.#environment.releasePages();
      this.#sessions.set(name, session);
    }
    return session;
  }

  /** `[T, T]`: 0 where a query sees a key of its own slice, a large negative number elsewhere. */
  #causalMask(tokens: number): Float32Array {
    if (this.#mask?.tokens !== tokens) {
      const data = new Float32Array(tokens * tokens);
      for (let query = 0; query < tokens; query++) {
        data.fill(hidden, query * tokens + query + 1, (query + 1) * tokens);
      }
      this.#mask = { tokens, data };
    }
    return this.#mask.data;
  }
}

/** Far below any logit, yet finite when a logit is added. */
const hidden = -1e30;

function ownSlot(slot: ForwardSlot): OwnSlot {
  const { context, tail } = slot;
  assert(context instanceof OrtContextView, 'a context of this runtime');
  assert(tail instanceof OrtTail, 'a tail of this runtime');
  return { ...slot, context, tail };
}

/** Numbers of contexts that there are graphs for: each takes a second to make, and memory. */
const ladder: readonly number[] = [1, 2, 4, 8];
const mostContexts = 8;

function roomFor(contexts: number): number {
  return defined(
    ladder.find((room) => room >= contexts),
    'a graph with room for the contexts',
  );
}

/** Slots of at most as many contexts as one call takes, those of a context together. */
function byContexts(slots: readonly OwnSlot[]): readonly (readonly OwnSlot[])[] {
  const contexts = [...new Set(slots.map(({ context }) => context))];
  const calls: OwnSlot[][] = [];
  for (const [i, context] of contexts.entries()) {
    if (i % mostContexts === 0) calls.push([]);
    calls.at(-1)?.push(...slots.filter((slot) => slot.context === context));
  }
  return calls;
}

function ownDense(cache: DenseCache): OrtDenseCache {
  assert(cache instanceof OrtDenseCache, 'a cache of this runtime');
  return cache;
}

function using<C extends { close(): void }, T>(resource: C, use: (resource: C) => T): T {
  try {
    return use(resource);
  } finally {
    resource.close();
  }
}
