import { assert, defined } from '../../core/assert.ts';
import type { Closeable } from '../../core/closeable.ts';
import { Made } from '../../core/made.ts';
import { headCount, type KvLayout } from '../../core/kv-layout.ts';
import type { ComputeType } from '../../graph/layer-graphs.ts';
import type { ModelConfig } from '../../model/config.ts';
import type { Pieces, ScoreSlice } from '../runtime.ts';
import { Arena, Layout, type Region } from './arena.ts';
import { kernelType } from './compute-type.ts';
import type { CudaDenseCache } from './dense-cache.ts';
import type { DeviceMemory } from './device.ts';
import type { TensorGpu } from './gpu.ts';
import type { HeadDim } from './kernel-shapes.ts';
import { LayerRunner, type LayerSessions } from './layer-runner.ts';
import type { DeviceWeights } from './weights.ts';

/** What dense calls work with. */
export interface DenseCallsOptions {
  readonly gpu: TensorGpu;
  readonly config: ModelConfig;
  readonly layout: KvLayout;
  readonly type: ComputeType;
  readonly sessions: Pick<LayerSessions, 'get'>;
  readonly weights: Pick<DeviceWeights, 'inputs' | 'head'>;
}

/** Most tokens of a call: enough for matrix products to be bound by arithmetic. */
export const mostDenseTokens = 2048;

/** Pieces that a call is cut into, so that running answers do not wait for all of it. */
const piecesPerCall = 8;

/** Tokens that next-token predictions are made of at once. */
const predictedTokens = 128;

/** Prefill and reconstruction passes over dense caches. */
export class DenseCalls implements Closeable {
  readonly #options: DenseCallsOptions;
  readonly #workspaces = new Made();
  readonly #idle: Workspace[] = [];

  constructor(options: DenseCallsOptions) {
    this.#options = options;
  }

  /**
   * Appends the tokens to the cache; with a slice also raises its scores. Takes the memory that it
   * computes in at once: what finds none may be tried again.
   * @throws ReadonceError `out_of_memory`
   */
  pieces(cache: CudaDenseCache, ids: Int32Array, slice: ScoreSlice | undefined): Pieces {
    const workspace = this.#idle.pop() ?? this.#workspaces.add(new Workspace(this.#options));
    try {
      workspace.reserve(slice);
    } catch (error) {
      this.#idle.push(workspace);
      throw error;
    }
    return this.#pieces(workspace, { cache, ids, slice });
  }

  *#pieces(workspace: Workspace, call: Call): Generator<() => void, void> {
    const { layers } = this.#options.layout;
    const layersPerPiece = Math.ceil(layers / piecesPerCall);
    try {
      for (let from = 0; from < layers; from += layersPerPiece) {
        yield () => {
          if (from === 0) workspace.begin(call);
          const to = Math.min(layers, from + layersPerPiece);
          for (let layer = from; layer < to; layer++) workspace.layer(layer);
          if (to === layers) workspace.finish();
          this.#options.gpu.stream.synchronize();
        };
      }
    } finally {
      this.#idle.push(workspace);
    }
  }

  close(): void {
    this.#idle.length = 0;
    this.#workspaces.close();
  }
}

interface Call {
  readonly cache: CudaDenseCache;
  readonly ids: Int32Array;
  readonly slice: ScoreSlice | undefined;
}

/** The activations of one call at a time. */
class Workspace implements Closeable {
  readonly #options: DenseCallsOptions;
  readonly #runner: LayerRunner;
  readonly #arena: Arena;
  readonly #logSums: Region;
  #scores: DeviceMemory | undefined;
  #call: Call | undefined;

  constructor(options: DenseCallsOptions) {
    this.#options = options;
    this.#runner = new LayerRunner({ ...options, mostTokens: mostDenseTokens });
    const memory = new Layout();
    this.#logSums = memory.add(options.config.queryHeads * mostDenseTokens * 4);
    try {
      this.#arena = new Arena(options.gpu.device, memory);
    } catch (error) {
      this.#runner.close();
      throw error;
    }
  }

  /** Takes what a call needs beyond what all of them do. */
  reserve(slice: ScoreSlice | undefined): void {
    const { device, stream } = this.#options.gpu;
    const sizeBytes = slice?.scores.byteLength ?? 0;
    if ((this.#scores?.sizeBytes ?? 0) >= sizeBytes) return;
    stream.synchronize();
    this.#scores?.close();
    this.#scores = undefined;
    this.#scores = device.allocate(sizeBytes);
  }

  begin(call: Call): void {
    const { cache, ids, slice } = call;
    const { stream } = this.#options.gpu;
    const tokens = ids.length;
    assert(tokens > 0 && tokens <= mostDenseTokens, `1 to ${mostDenseTokens} tokens a slice`);
    this.#call = call;
    cache.expect(cache.length + tokens);
    const longs = (value: (i: number) => number): BigInt64Array =>
      BigInt64Array.from(ids, (_, i) => BigInt(value(i)));
    stream.copyToDevice(
      this.#runner.address('input_ids'),
      longs((i) => ids[i] as number),
    );
    stream.copyToDevice(
      this.#runner.address('position_ids'),
      longs((i) => cache.length + i),
    );
    if (slice !== undefined) this.#clearScores(slice);
    this.#runner.begin(tokens);
  }

  layer(layer: number): void {
    const { cache, ids, slice } = this.#current();
    const { layers } = this.#options.layout;
    // Another call may have run in between: what the host holds is said again.
    cache.expect(cache.length + ids.length);
    this.#runner.attend(ids.length, cache.layer(layer));
    if (slice !== undefined) this.#score(layer, cache, slice);
    if (layer + 1 < layers) this.#runner.between(ids.length, layer);
  }

  finish(): void {
    const { cache, ids, slice } = this.#current();
    if (slice !== undefined) {
      this.#raiseScores(slice);
      if (slice.predictions !== undefined) this.#predict(ids.length, slice.predictions);
    }
    cache.append(ids.length);
    this.#call = undefined;
  }

  close(): void {
    this.#runner.close();
    this.#arena.close();
    this.#scores?.close();
  }

  #current(): Call {
    return defined(this.#call, 'a call that has begun');
  }

  #clearScores({ scores }: ScoreSlice): void {
    const { stream } = this.#options.gpu;
    const target = defined(this.#scores, 'scores').address;
    stream.fill32(target, { count: scores.length, value: 0 });
  }

  #score(layer: number, cache: CudaDenseCache, slice: ScoreSlice): void {
    const { gpu, config, layout, type } = this.#options;
    const { kvHeads, headDim } = layout;
    const chunk = slice.chunkEnd - slice.chunkStart;
    if (chunk === 0) return;
    const headStride = cache.capacity * headDim;
    const keys = cache.keysAddress(layer);
    const pass = {
      type: kernelType[type],
      headDim: headDim as HeadDim,
      queries: this.#runner.address('query'),
      queryStride: config.queryHeads * headDim,
      queryCount: slice.ids.length,
      queryHeads: config.queryHeads,
      kvHeads,
      cachedKeys: keys,
      cachedStride: headStride,
      chunkStart: slice.chunkStart,
      chunkLength: chunk,
      logSums: this.#arena.address(this.#logSums),
    };
    gpu.kernels.scoreRows(gpu.stream, {
      ...pass,
      ownKeys: keys + BigInt(slice.passStart * headDim * elementBytes),
      ownStride: headStride,
      prefix: slice.sinkEnd,
      firstOwn: cache.length - slice.passStart,
    });
    const scores = defined(this.#scores, 'scores').address;
    gpu.kernels.scoreKeys(gpu.stream, {
      ...pass,
      scores: scores + BigInt(layer * kvHeads * chunk * 4),
      scoreStride: chunk,
      splits: scoreSplits,
    });
  }

  #raiseScores({ scores }: ScoreSlice): void {
    const { stream } = this.#options.gpu;
    assert(scores.length % headCount(this.#options.layout) === 0, 'scores of all heads');
    const found = new Float32Array(scores.length);
    stream.copyToHost(found, defined(this.#scores, 'scores').address);
    stream.synchronize();
    for (const [i, score] of found.entries()) {
      if (score > (scores[i] as number)) scores[i] = score;
    }
  }

  #predict(tokens: number, predictions: Int32Array): void {
    const { gpu, config, weights, type } = this.#options;
    const { stream, kernels, device } = gpu;
    const { vocabSize } = config;
    const memory = new Layout();
    const logits = memory.add(predictedTokens * vocabSize * 4);
    const largest = memory.add(predictedTokens * 4);
    const arena = new Arena(device, memory);
    try {
      for (let start = 0; start < tokens; start += predictedTokens) {
        const rows = Math.min(predictedTokens, tokens - start);
        const numbers = BigInt64Array.from({ length: rows }, (_, i) => BigInt(start + i));
        stream.copyToDevice(this.#runner.address('rows'), numbers);
        this.#runner.end(tokens, rows);
        kernels.logits(stream, {
          type: kernelType[type],
          hidden: this.#runner.address('hidden'),
          matrix: weights.head,
          out: arena.address(logits),
          rows,
          inputs: config.hiddenSize,
          outputs: vocabSize,
        });
        const out = arena.address(largest);
        kernels.largest(stream, { logits: arena.address(logits), out, rows, outputs: vocabSize });
        stream.copyToHost(predictions.subarray(start, start + rows), out);
        stream.synchronize();
      }
    } finally {
      arena.close();
    }
  }
}

/** Of both compute types. */
const elementBytes = 2;

/** Parts that the queries are dealt in when keys are scored: fills a card with short chunks. */
const scoreSplits = 4;
