import { dirname } from 'node:path';
import { assert } from '../../core/assert.ts';
import { pairBytes, type KvLayout } from '../../core/kv-layout.ts';
import { denseGraph } from '../../graph/dense-graph.ts';
import type { GraphSource } from '../../graph/decoder-blocks.ts';
import { contextGraph, queryGraph } from '../../graph/query-graph.ts';
import { kvLayout, type ModelConfig } from '../../model/config.ts';
import type { TensorRef } from '../../model/checkpoint.ts';
import { floatLogits } from '../float-logits.ts';
import { checkTogether } from '../forward-slots.ts';
import { hostPoolBytes } from '../host-pool-bytes.ts';
import { checkScoreSlice } from '../score-slice.ts';
import type {
  ContextCache,
  DenseCache,
  ForwardSlot,
  Logits,
  Pieces,
  Runtime,
  ScoreSlice,
  Tail,
} from '../runtime.ts';
import { loadOrt } from './api.ts';
import { OrtDenseCache } from './dense-cache.ts';
import { DenseCall, type DenseCallOptions, type LayerRange, type ScoreMask } from './dense-call.ts';
import { OrtContextCache, OrtContextView } from './context-cache.ts';
import { QueryCall, type OwnSlot } from './query-call.ts';
import { RopeTensors } from './rope-tensors.ts';
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
  readonly memory = 'host';
  readonly rowBytes: number;
  /**
   * 256 keeps the attention logits (heads · slice · rows) of a 135M model over 8,192 rows under
   * 80 MB and matrix products near their full speed.
   */
  readonly sliceTokens = 256;
  readonly defaultPoolBytes = hostPoolBytes;
  readonly #source: GraphSource;
  readonly #environment: OrtEnvironment;
  readonly #sessions = new Map<string, OrtSession>();
  #mask: ScoreMask | undefined;
  readonly #arena: TailArena;
  /** Pieces of a pass. */
  readonly #layerRanges: readonly LayerRange[];
  readonly #rope: RopeTensors;
  /** A decode step repeats the call before with other tokens, whatever ran in between. */
  readonly #queryCalls = new Map<QueryKind, QueryCall>();

  constructor(source: GraphSource, options: OrtCpuOptions) {
    this.config = source.config;
    this.layout = kvLayout(source.config);
    this.rowBytes = pairBytes(this.layout, 1, Float32Array.BYTES_PER_ELEMENT);
    this.#source = source;
    this.#environment = new OrtEnvironment(loadOrt(), { ...options, tensors: tensorsOf(source) });
    this.#arena = new TailArena(this.#environment, this.layout);
    this.#rope = new RopeTensors(this.#environment, source.config);
    this.#layerRanges = rangesOf(source.config.layers);
  }

  warm(): void {
    for (const layers of this.#layerRanges) {
      this.#denseSession('prefill', layers);
      this.#denseSession('score', layers);
    }
    this.#queryCall('extend');
    this.#queryCall('step');
  }

  createDense(capacity: number): DenseCache {
    return new OrtDenseCache(this.#environment, this.layout, capacity);
  }

  createContext(lengths: Uint32Array): ContextCache {
    return OrtContextCache.allocate(this.#environment, this.layout, lengths);
  }

  contextOf(cache: DenseCache): ContextCache {
    const rows = ownDense(cache).rowsOfHeads();
    cache.close();
    return new OrtContextCache(this.#environment, this.layout, rows);
  }

  createTail(): Tail {
    return this.#arena.createTail();
  }

  prefill(cache: DenseCache, ids: Int32Array): Pieces {
    return this.#densePieces({ cache: ownDense(cache), ids, score: undefined });
  }

  score(cache: DenseCache, slice: ScoreSlice): Pieces {
    const own = ownDense(cache);
    checkScoreSlice(slice, this.layout, own.length);
    const mask = this.#scoreMask(slice, own.length);
    return this.#densePieces({ cache: own, ids: slice.ids, score: { slice, mask } });
  }

  *#densePieces(options: Omit<DenseCallOptions, 'config' | 'rope'>): Generator<() => void, void> {
    const own = { config: this.config, rope: this.#rope };
    const call = new DenseCall(this.#environment, { ...options, ...own });
    const { score } = options;
    const kind =
      score === undefined ? 'prefill' : score.slice.predictions === undefined ? 'score' : 'predict';
    try {
      for (const layers of this.#layerRanges) {
        yield () => {
          call.run(this.#denseSession(kind, layers), layers);
          if (layers.to === this.config.layers) call.finish();
        };
      }
    } finally {
      call.close();
    }
  }

  forward(slots: readonly ForwardSlot[]): readonly Logits[] {
    checkTogether(slots);
    const own = slots.map(ownSlot);
    const call = this.#queryCall(own.every(isStep) ? 'step' : 'extend');
    return call.run(own).map(floatLogits);
  }

  close(): void {
    for (const call of this.#queryCalls.values()) call.close();
    this.#queryCalls.clear();
    this.#arena.close();
    this.#rope.close();
    for (const session of this.#sessions.values()) session.close();
    this.#sessions.clear();
    this.#environment.close();
  }

  /** The session of some layers; only the last can predict. */
  #denseSession(kind: 'prefill' | 'score' | 'predict', layers: LayerRange): OrtSession {
    const predict = kind === 'predict' && layers.to === this.config.layers;
    const name = kind === 'predict' && !predict ? 'score' : kind;
    const options = { score: kind !== 'prefill', predict, layers };
    return this.#session(`${name}.${layers.from}`, () => denseGraph(this.#source, options));
  }

  #queryCall(kind: QueryKind): QueryCall {
    let call = this.#queryCalls.get(kind);
    if (call === undefined) {
      const isFourBit = kind === 'step' && this.#source.fourBit !== undefined;
      const linears = isFourBit ? 'fourBit' : 'float32';
      const stages = Array.from({ length: this.config.layers + 1 }, (_, stage) =>
        this.#session(`${linears}.${stage}`, () => queryGraph(this.#source, { stage, linears })),
      );
      const attention = this.#session('context', () => contextGraph(this.config));
      const { config } = this;
      const options = { stages, attention, config, arena: this.#arena, rope: this.#rope };
      call = new QueryCall(this.#environment, options);
      this.#queryCalls.set(kind, call);
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

  /** Queries see all keys but those of later tokens of their own slice, which come last. */
  #scoreMask(
    { ids, sinkEnd, chunkStart, chunkEnd, passStart }: ScoreSlice,
    rows: number,
  ): ScoreMask {
    const { group } = this.layout;
    const tokens = ids.length;
    const keys = sinkEnd + (chunkEnd - chunkStart) + (rows + tokens - passStart);
    if (this.#mask?.tokens !== tokens || this.#mask.keys !== keys) {
      const data = new Float32Array(group * tokens * keys);
      for (let query = 0; query < group * tokens; query++) {
        const later = tokens - 1 - (query % tokens);
        data.fill(hidden, (query + 1) * keys - later, (query + 1) * keys);
      }
      this.#mask = { data, group, tokens, keys };
    }
    return this.#mask;
  }
}

/**
 * Pieces of a slice's way through the model: with at most a sixteenth of the layers in each, one of
 * 256 tokens takes about as long as a decode step of a few answers, so that these hardly feel a
 * document being read.
 */
const slicePieces = 16;

function rangesOf(layers: number): readonly LayerRange[] {
  const each = Math.ceil(layers / slicePieces);
  return Array.from({ length: Math.ceil(layers / each) }, (_, range) => ({
    from: range * each,
    to: Math.min(layers, (range + 1) * each),
  }));
}

/** A decode step, or any other tokens of requests. */
type QueryKind = 'step' | 'extend';

/** Far below any logit, yet finite when a logit is added. */
const hidden = -1e30;

function ownSlot(slot: ForwardSlot): OwnSlot {
  const { context, tail } = slot;
  assert(context instanceof OrtContextView, 'a context of this runtime');
  assert(tail instanceof OrtTail, 'a tail of this runtime');
  return { ...slot, context, tail };
}

/** A decode step: one token behind others. */
function isStep({ ids, tail }: OwnSlot): boolean {
  return ids.length === 1 && tail.length > 0;
}

function tensorsOf({ tensors, fourBit }: GraphSource): readonly TensorRef[] {
  const parts = [...(fourBit?.values() ?? [])].flatMap(({ codes, scales, shifts }) => [
    codes,
    scales,
    shifts,
  ]);
  return [...tensors.values(), ...parts];
}

function ownDense(cache: DenseCache): OrtDenseCache {
  assert(cache instanceof OrtDenseCache, 'a cache of this runtime');
  return cache;
}
