import { assert } from '../../core/assert.ts';
import { headCount, type KvLayout } from '../../core/kv-layout.ts';
import { Made } from '../../core/made.ts';
import type { GraphSource } from '../../graph/decoder-blocks.ts';
import type { ComputeType } from '../../graph/layer-graphs.ts';
import { kvLayout, type ModelConfig } from '../../model/config.ts';
import { appendTogether, checkTogether } from '../forward-slots.ts';
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
import { hostPoolBytes } from '../host-pool-bytes.ts';
import { checkScoreSlice } from '../score-slice.ts';
import { BlockPool } from './block-pool.ts';
import { callsOf, mostSlots, mostSlotTokens } from './calls.ts';
import { CudaContextCache, CudaContextView, type CachesOptions } from './context-cache.ts';
import { CudaDenseCache } from './dense-cache.ts';
import { DenseCalls, mostDenseTokens } from './dense-calls.ts';
import { kernelType } from './compute-type.ts';
import { Gpu } from './gpu.ts';
import { CudaHostTier } from './host-tier.ts';
import type { HeadDim } from './kernel-shapes.ts';
import { LayerSessions } from './layer-runner.ts';
import { isDeviceLost } from './lost-device.ts';
import { requireKernels } from './model-check.ts';
import { QueryCalls, type CudaSlot, type LaunchCall } from './query-call.ts';
import { RowTransfer } from './row-transfer.ts';
import { CudaTail } from './tail.ts';
import { DeviceWeights } from './weights.ts';

/** What of a GPU a runtime may use. */
export interface CudaRuntimeOptions {
  readonly deviceIndex: number;
  /** Most bytes of loaded contexts and tails; 0: 0.6 of what is free beside the weights. */
  readonly poolBytes: number;
  /** What contexts and tails are held in; with `int8`, stored `int8` is held as it is stored. */
  readonly precision: DevicePrecision;
  /** Queries that may compute at once: default 32; more make a step of several calls. */
  readonly maxRunning?: number | undefined;
  /** For measurements of a call by itself; by default it is launched once. */
  readonly launchCall?: LaunchCall | undefined;
}

/**
 * Element types of pairs in device memory: 2 bytes, or 1 and a scale for each row. With `bf16` the
 * model computes in bfloat16, too: the range of float32 with fewer digits.
 */
export type DevicePrecision = 'f16' | 'bf16' | 'int8';

/**
 * Of the host's memory for contexts, for copies of those that gave way on the card: page-locked
 * memory is nobody else's.
 */
const hostShare = 0.5;

/**
 * What the pool may take beyond what its users count with: last blocks of heads that are not full.
 */
const paddingShare = 1.25;

/** Of what is free beside the weights; the rest is for documents that are being read. */
const poolShare = 0.6;

/**
 * ONNX Runtime and kernels of our own on an NVIDIA GPU, float16 or bfloat16. Documents, contexts
 * and tails live in device memory from prefill to answer.
 * @throws ReadonceError `engine_unavailable` if something is missing, `unsupported` for a model
 * without kernels, `out_of_memory` if it does not fit
 */
export function createCudaRuntime(source: GraphSource, options: CudaRuntimeOptions): Runtime {
  requireKernels(source.config);
  return new CudaRuntime(source, options);
}

class CudaRuntime implements Runtime {
  readonly name = 'ort-cuda';
  readonly config: ModelConfig;
  readonly layout: KvLayout;
  readonly memory = 'device';
  readonly rowBytes: number;
  readonly sliceTokens = mostDenseTokens;
  readonly hostTier: CudaHostTier;
  readonly #type: ComputeType;
  readonly #gpu: Gpu;
  readonly #transfer: RowTransfer;
  readonly #blocks: BlockPool;
  readonly #poolBytes: number;
  readonly #caches: CachesOptions;
  readonly #dense: DenseCalls;
  readonly #queries: QueryCalls;
  readonly #made = new Made();
  #open = true;

  constructor(source: GraphSource, options: CudaRuntimeOptions) {
    const { deviceIndex, poolBytes, precision, maxRunning = mostSlots, launchCall } = options;
    this.config = source.config;
    this.layout = kvLayout(source.config);
    const headDim = source.config.headDim as HeadDim;
    const type: ComputeType = precision === 'bf16' ? 'bfloat16' : 'float16';
    this.#type = type;
    const keyAndValue = 2;
    this.rowBytes = keyAndValue * (precision === 'int8' ? headDim + 2 : 2 * headDim);
    const made = this.#made;
    try {
      const gpu = made.add(new Gpu(deviceIndex));
      this.#gpu = gpu;
      const weights = made.add(new DeviceWeights(gpu, source, type));
      const sessions = made.add(new LayerSessions(gpu, source.config, type));
      this.#transfer = made.add(new RowTransfer(gpu, { headDim, type: kernelType[type] }));
      const { freeBytes } = gpu.device.memory();
      this.#poolBytes = poolBytes > 0 ? poolBytes : Math.floor(freeBytes * poolShare);
      this.#blocks = made.add(
        new BlockPool(gpu, {
          format: precision === 'int8' ? 'i8r' : precision,
          headDim,
          poolBytes: this.#poolBytes * paddingShare,
        }),
      );
      const shared = { gpu, layout: this.layout, type };
      this.#caches = { ...shared, blocks: this.#blocks, transfer: this.#transfer };
      const computing = { ...shared, config: source.config, sessions, weights };
      this.hostTier = made.add(new CudaHostTier(this.#caches, hostPoolBytes() * hostShare));
      this.#dense = made.add(new DenseCalls(computing));
      this.#queries = made.add(
        new QueryCalls({ ...computing, blocks: this.#blocks, maxRunning, launchCall }),
      );
    } catch (error) {
      made.abandon();
      throw error;
    }
    // Before anything is given back that kernels may use.
    made.add({ close: () => this.#gpu.stream.synchronize() });
  }

  defaultPoolBytes(): number {
    return this.#poolBytes;
  }

  /** Compiles what the first call of each kind would wait for. */
  warm(): void {
    const dense = this.createDense(2);
    try {
      for (const piece of this.prefill(dense, Int32Array.of(0))) piece();
    } finally {
      dense.close();
    }
    const context = this.createContext(new Uint32Array(headCount(this.layout)));
    const tail = this.createTail();
    try {
      const slot = { context: context.view(context.lengths), tail, startPosition: 0 };
      for (let i = 0; i < 3; i++) this.forward([{ ...slot, ids: Int32Array.of(0) }]);
    } finally {
      tail.close();
      context.close();
    }
  }

  createDense(capacity: number): DenseCache {
    return new CudaDenseCache({ ...this.#caches, gpu: this.#gpu, type: this.#type }, capacity);
  }

  createContext(lengths: Uint32Array): ContextCache {
    return new CudaContextCache(this.#caches, lengths);
  }

  contextOf(cache: DenseCache): ContextCache {
    const dense = ownDense(cache);
    const { layout } = this;
    const context = new CudaContextCache(
      this.#caches,
      new Uint32Array(headCount(layout)).fill(dense.length),
    );
    try {
      this.#copyDense(dense, context);
    } catch (error) {
      context.close();
      throw error;
    }
    dense.close();
    return context;
  }

  createTail(): Tail {
    return new CudaTail(this.#caches);
  }

  prefill(cache: DenseCache, ids: Int32Array): Pieces {
    return this.#dense.pieces(ownDense(cache), ids, undefined);
  }

  score(cache: DenseCache, slice: ScoreSlice): Pieces {
    const dense = ownDense(cache);
    checkScoreSlice(slice, this.layout, dense.length);
    return this.#dense.pieces(dense, slice.ids, slice);
  }

  forward(slots: readonly ForwardSlot[]): readonly Logits[] {
    checkTogether(slots);
    this.#transfer.flush();
    return appendTogether(slots, () => this.#forward(slots.map(ownSlot)));
  }

  #forward(slots: readonly CudaSlot[]): readonly Logits[] {
    const cut = slots.map((slot) => this.#cut(slot));
    const early = cut.flatMap((pieces) => pieces.slice(0, -1).map((piece) => [piece]));
    const last = cut.flatMap((pieces) => pieces.slice(-1));
    const runs = [...early, ...callsOf(last, this.layout)];
    return this.#queries.runAll(runs).slice(early.length).flat();
  }

  /** A long question as several slots, to be computed one after another. */
  #cut(slot: CudaSlot): readonly CudaSlot[] {
    const most = mostSlotTokens(this.layout);
    return Array.from({ length: Math.ceil(slot.ids.length / most) }, (_, i) => ({
      ...slot,
      ids: slot.ids.subarray(i * most, (i + 1) * most),
      startPosition: slot.startPosition + i * most,
    }));
  }

  deviceMemory(): { readonly freeBytes: number; readonly totalBytes: number } {
    return this.#gpu.device.memory();
  }

  isDeviceLost(error: unknown): boolean {
    return this.#open && isDeviceLost(error, this.#gpu.stream);
  }

  close(): void {
    this.#open = false;
    this.#made.close();
  }

  /** All rows into blocks, layer by layer. */
  #copyDense(dense: CudaDenseCache, context: CudaContextCache): void {
    const { stream, kernels, device } = this.#gpu;
    const { layers, kvHeads } = this.layout;
    const rows = dense.length;
    if (rows === 0) return;
    const all = Int32Array.from({ length: rows }, (_, row) => row);
    const starts = Int32Array.from({ length: kvHeads + 1 }, (_, head) => head * rows);
    const kept = device.allocate(kvHeads * all.byteLength + starts.byteLength);
    try {
      for (let head = 0; head < kvHeads; head++) {
        stream.copyToDevice(kept.address + BigInt(head * all.byteLength), all);
      }
      const keptStarts = kept.address + BigInt(kvHeads * all.byteLength);
      stream.copyToDevice(keptStarts, starts);
      const table = this.#transfer.tableOf(context.target);
      for (let layer = 0; layer < layers; layer++) {
        const { maxBlocks } = context.target;
        kernels.compact(stream, {
          type: kernelType[this.#type],
          denseKeys: dense.keysAddress(layer),
          denseValues: dense.valuesAddress(layer),
          capacity: dense.capacity,
          kvHeads,
          kept: kept.address,
          keptStarts,
          mostKept: rows,
          pool: this.#blocks.pool,
          table: { address: table + BigInt(layer * kvHeads * maxBlocks * 4), maxBlocks },
        });
      }
      stream.synchronize();
    } finally {
      kept.close();
    }
  }
}

function ownSlot(slot: ForwardSlot): CudaSlot {
  const { context, tail } = slot;
  assert(context instanceof CudaContextView, 'a context of this runtime');
  assert(tail instanceof CudaTail, 'a tail of this runtime');
  return { ...slot, context, tail };
}

function ownDense(cache: DenseCache): CudaDenseCache {
  assert(cache instanceof CudaDenseCache, 'a cache of this runtime');
  return cache;
}
