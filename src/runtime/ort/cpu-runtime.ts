import { dirname } from 'node:path';
import { assert } from '../../core/assert.ts';
import type { KvLayout } from '../../core/kv-layout.ts';
import { denseGraph } from '../../graph/dense-graph.ts';
import type { GraphSource } from '../../graph/decoder-blocks.ts';
import { raggedGraph } from '../../graph/ragged-graph.ts';
import { kvLayout, type ModelConfig } from '../../model/config.ts';
import type { DenseCache, RaggedCache, RaggedSlot, Runtime, ScoreSlice } from '../runtime.ts';
import { loadOrt } from './api.ts';
import { OrtDenseCache } from './dense-cache.ts';
import { DenseCall } from './dense-call.ts';
import { ForwardCall } from './forward-call.ts';
import { OrtRaggedCache } from './ragged-cache.ts';
import { OrtEnvironment, type OrtSession } from './session.ts';

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
  /** The last forward call's bindings: a decode step repeats it with other tokens. */
  #lastForward: ForwardCall | undefined;

  constructor(source: GraphSource, options: OrtCpuOptions) {
    this.config = source.config;
    this.layout = kvLayout(source.config);
    this.#source = source;
    this.#environment = new OrtEnvironment(loadOrt(), { ...options, tensors: source.tensors });
  }

  warm(): void {
    this.#prefillSession();
    this.#scoreSession(false);
    this.#raggedSession(1);
  }

  createDense(capacity: number): DenseCache {
    return new OrtDenseCache(this.#environment, this.layout, capacity);
  }

  createRagged(lengths: Uint32Array, tailCapacity: number): RaggedCache {
    return new OrtRaggedCache(this.#environment, this.layout, { lengths, tailCapacity });
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

  forward(slots: readonly RaggedSlot[]): readonly Float32Array[] {
    assert(new Set(slots.map(({ cache }) => cache)).size === slots.length, 'distinct caches');
    const own = slots.map((slot) => {
      assert(slot.cache instanceof OrtRaggedCache, 'a cache of this runtime');
      assert(slot.ids.length > 0, 'at least one token a slot');
      return { ...slot, cache: slot.cache };
    });
    if (this.#lastForward?.fits(own) !== true) {
      this.#lastForward?.close();
      this.#lastForward = undefined;
      const session = this.#raggedSession(slots.length);
      this.#lastForward = new ForwardCall(this.#environment, session, {
        slots: own,
        config: this.config,
      });
    }
    return this.#lastForward.run(own);
  }

  close(): void {
    this.#lastForward?.close();
    this.#lastForward = undefined;
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

  #raggedSession(slots: number): OrtSession {
    return this.#session(`ragged.${slots}`, () => raggedGraph(this.#source, { slots }));
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
