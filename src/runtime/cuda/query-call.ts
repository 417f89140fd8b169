import { assert, defined } from '../../core/assert.ts';
import type { Closeable } from '../../core/closeable.ts';
import { Made } from '../../core/made.ts';
import type { KvLayout } from '../../core/kv-layout.ts';
import type { ComputeType } from '../../graph/layer-graphs.ts';
import type { ModelConfig } from '../../model/config.ts';
import type { ForwardSlot, Logits } from '../runtime.ts';
import { Arena, Layout, type Region } from './arena.ts';
import type { BlockPool } from './block-pool.ts';
import { isStep, mostSlots, questionTokens } from './calls.ts';
import { kernelType } from './compute-type.ts';
import type { CudaContextView } from './context-cache.ts';
import type { PinnedMemory } from './device.ts';
import { DeviceLogits } from './device-logits.ts';
import type { Gpu } from './gpu.ts';
import { attendRows, partBytes, type AttendRows } from './kernel-shapes.ts';
import { KeptLogits } from './kept-logits.ts';
import { LayerRunner, type LayerSessions } from './layer-runner.ts';
import { QueryInputs } from './query-inputs.ts';
import type { CudaGraph, CudaStream } from './stream.ts';
import type { CudaTail } from './tail.ts';
import { UnitSlots } from './unit-slots.ts';
import { planUnits, type UnitPlan } from './units.ts';
import type { DeviceWeights } from './weights.ts';

/** A slot whose context and tail are this runtime's. */
export interface CudaSlot extends ForwardSlot {
  readonly context: CudaContextView;
  readonly tail: CudaTail;
}

/** What query calls work with. */
export interface QueryCallOptions {
  readonly gpu: Gpu;
  readonly config: ModelConfig;
  readonly layout: KvLayout;
  readonly type: ComputeType;
  readonly sessions: LayerSessions;
  readonly weights: DeviceWeights;
  readonly blocks: BlockPool;
  /** Queries that may compute at once. */
  readonly maxRunning: number;
  readonly launchCall?: LaunchCall | undefined;
}

/** Puts a captured call, whose inputs are there, into the stream; once, or several times. */
export type LaunchCall = (graph: CudaGraph, stream: CudaStream) => void;

/** Rows of hidden states that the LM head's kernel reads its matrix once for. */
const headRows = 16;

/** Where a sequence begins: its place, and its first part. */
const startBytes = 2 * Int32Array.BYTES_PER_ELEMENT;

/** Calls of the runtime whose logits are kept: the last one, and two before it. */
const keptCalls = 3;

/**
 * What a captured call depends on, all else being in the inputs. Every step has one number of
 * tokens, and every question another, whatever there is to compute: a matrix product of other sizes
 * may be another kernel, with sums in another order, and results must not depend on who else is
 * computed. Up to some dozens of rows products take as long as reading the weights.
 */
interface Shape {
  readonly tokens: number;
  /** Rows that go through the last feed-forward block. */
  readonly rows: number;
  /** Rows that logits are computed of, each by itself. */
  readonly logits: number;
  readonly variant: AttendRows;
}

interface Captured {
  /** How often it was computed before it is captured: once finds all memory that it needs. */
  runs: number;
  graph: CudaGraph | undefined;
}

/** Computes queries' tokens: contexts and tails in blocks, everything else in layer graphs. */
export class QueryCalls implements Closeable {
  readonly #options: QueryCallOptions;
  readonly #inputs: QueryInputs;
  readonly #slots: UnitSlots;
  readonly #runner: LayerRunner;
  readonly #arena: Arena;
  readonly #regions: Readonly<
    Record<'starts' | 'partials' | 'stats' | 'logits' | 'largest', Region>
  >;
  readonly #kept: KeptLogits;
  readonly #largest: PinnedMemory;
  readonly #grids = new Map<AttendRows, number>();
  readonly #captured = new Map<string, Captured>();
  readonly #stepTokens: number;
  readonly #made = new Made();

  /** @throws ReadonceError `out_of_memory` */
  constructor(options: QueryCallOptions) {
    this.#options = options;
    const { gpu, layout, config, maxRunning } = options;
    // A context and a tail each: the calls of a step must not take each other's places.
    const places = 2 * Math.max(mostSlots, maxRunning);
    this.#stepTokens = maxRunning <= mostSlots / 2 ? mostSlots / 2 : mostSlots;
    const logitsBytes = mostSlots * config.vocabSize * Float32Array.BYTES_PER_ELEMENT;
    const made = this.#made;
    try {
      this.#inputs = made.add(new QueryInputs(gpu, layout, { mostTokens: questionTokens, places }));
      const onMove = (): void => this.#forgetCaptured();
      this.#slots = made.add(new UnitSlots(gpu, { layout, places, onMove }));
      this.#runner = made.add(
        new LayerRunner({
          ...options,
          mostTokens: questionTokens,
          inputs: {
            input_ids: this.#inputs.address('ids'),
            position_ids: this.#inputs.address('positions'),
            rows: this.#inputs.address('rows'),
          },
        }),
      );
      const memory = new Layout();
      const { partials, stats } = partBytes({
        ...layout,
        queries: questionTokens,
        unitsPerQuery: 2,
        headDim: options.blocks.pool.headDim,
      });
      this.#regions = {
        starts: memory.add(layout.layers * (this.#slots.sequences + 1) * startBytes),
        partials: memory.add(partials),
        stats: memory.add(stats),
        logits: memory.add(logitsBytes),
        largest: memory.add(mostSlots * 4),
      };
      this.#arena = made.add(new Arena(gpu.device, memory));
      this.#kept = made.add(new KeptLogits(gpu.device, logitsBytes));
      this.#kept.reserve(keptCalls);
      this.#largest = made.add(gpu.device.pin(mostSlots * 4));
    } catch (error) {
      made.abandon();
      throw error;
    }
    made.add({ close: () => this.#forgetCaptured() });
  }

  /**
   * Computes one call of the runtime: runs, one after another. All logits of the last two calls
   * that did not fail last beside its own.
   * @throws ReadonceError `out_of_memory`
   */
  runAll(runs: readonly (readonly CudaSlot[])[]): readonly (readonly Logits[])[] {
    this.#kept.reserve(keptCalls * runs.length);
    return this.#kept.unlessFailed(() => runs.map((slots) => this.#run(slots)));
  }

  #run(slots: readonly CudaSlot[]): readonly Logits[] {
    assert(slots.length <= mostSlots, `at most ${mostSlots} slots`);
    for (const { tail, ids } of slots) tail.reserve(ids.length);
    const plan = planUnits(slots, this.#options.layout);
    const places = this.#slots.place(plan.units);
    const areSteps = slots.every(isStep);
    const shape: Shape = {
      tokens: areSteps ? this.#stepTokens : questionTokens,
      rows: areSteps ? this.#stepTokens : mostSlots,
      logits: Math.ceil(slots.length / headRows) * headRows,
      variant: attendRows(plan.mostRows),
    };
    const logits = this.#settled(() => {
      this.#fill(slots, { plan, places }, shape);
      this.#launch(shape);
      return this.#takeLogits(slots.length);
    });
    for (const { tail, ids } of slots) tail.append(ids.length);
    return logits;
  }

  close(): void {
    this.#made.close();
  }

  /** Kernels of a run that failed half-way must not find the inputs of the next one. */
  #settled<T>(work: () => T): T {
    try {
      return work();
    } catch (error) {
      try {
        this.#options.gpu.stream.synchronize();
      } catch {
        // What failed first is what the caller should hear of.
      }
      throw error;
    }
  }

  #fill(
    slots: readonly CudaSlot[],
    placed: { readonly plan: UnitPlan; readonly places: readonly number[] },
    shape: Shape,
  ): void {
    const ids: number[] = [];
    const positions: number[] = [];
    const rows: number[] = [];
    for (const [i, slot] of slots.entries()) {
      const [first, end] = defined(placed.plan.tokens[i], 'the tokens of a slot');
      for (const [token, id] of slot.ids.entries()) {
        ids[first + token] = id;
        positions[first + token] = slot.startPosition + token;
      }
      rows.push(end - 1);
    }
    this.#inputs.fill(shape.tokens, { ids, positions, rows }, placed);
  }

  /** A call of a shape is captured the second time, and replayed from then on. */
  #launch(shape: Shape): void {
    const { gpu, launchCall } = this.#options;
    const name = `${shape.tokens}.${shape.rows}.${shape.logits}.${shape.variant}`;
    const captured: Captured = this.#captured.get(name) ?? { runs: 0, graph: undefined };
    this.#captured.set(name, captured);
    if (captured.runs === 0) this.#compute(shape);
    captured.runs++;
    if (captured.runs === 1) return;
    captured.graph ??= gpu.stream.capture(() => this.#compute(shape));
    if (launchCall === undefined) captured.graph.launch(gpu.stream);
    else launchCall(captured.graph, gpu.stream);
  }

  #forgetCaptured(): void {
    for (const { graph } of this.#captured.values()) graph?.close();
    this.#captured.clear();
  }

  /** Puts the call's kernels into the stream. */
  #compute(shape: Shape): void {
    const { gpu, config, layout, weights } = this.#options;
    const { kernels, stream } = gpu;
    const { tokens, rows, logits: logitsRows } = shape;
    kernels.plan(stream, {
      ...layout,
      lengths: this.#inputs.address('lengths'),
      units: this.#inputs.address('units'),
      starts: this.#arena.address(this.#regions.starts),
      sequences: this.#slots.sequences,
      format: this.#options.blocks.pool.format,
    });
    this.#runner.begin(tokens);
    for (let layer = 0; layer < layout.layers; layer++) {
      this.#attend(layer, shape);
      if (layer + 1 < layout.layers) this.#runner.between(tokens, layer);
    }
    this.#runner.end(tokens, rows);
    const logits = this.#arena.address(this.#regions.logits);
    const outputs = config.vocabSize;
    kernels.logits(stream, {
      type: kernelType[this.#options.type],
      hidden: this.#runner.address('hidden'),
      matrix: weights.head,
      out: logits,
      rows: logitsRows,
      inputs: config.hiddenSize,
      outputs,
    });
    const out = this.#arena.address(this.#regions.largest);
    kernels.largest(stream, { logits, out, rows: logitsRows, outputs });
  }

  #attend(layer: number, { tokens, variant }: Shape): void {
    const { gpu, layout, blocks } = this.#options;
    const { kernels, stream } = gpu;
    const { kvHeads, group } = layout;
    const { pool } = blocks;
    const { sequences } = this.#slots;
    const table = this.#slots.table(layer);
    const lengths = this.#inputs.address('lengths') + BigInt(layer * sequences * 4);
    kernels.append(stream, {
      pool,
      table,
      newKeys: this.#runner.address('key'),
      newValues: this.#runner.address('value'),
      tokens: this.#inputs.address('tokens'),
      tokenCount: tokens,
      lengths,
      kvHeads,
    });
    const parts = {
      starts:
        this.#arena.address(this.#regions.starts) + BigInt(layer * (sequences + 1) * startBytes),
      units: this.#inputs.address('units'),
      partials: this.#arena.address(this.#regions.partials),
      stats: this.#arena.address(this.#regions.stats),
    };
    kernels.attend(stream, {
      ...parts,
      pool,
      table,
      queries: this.#runner.address('query'),
      lengths,
      sequences,
      kvHeads,
      group,
      rows: variant,
      grid: this.#grid(variant),
      early: true,
    });
    kernels.merge(stream, {
      type: kernelType[this.#options.type],
      headDim: pool.headDim,
      out: this.#runner.address('attention'),
      queries: tokens,
      kvHeads,
      group,
      ...parts,
      queryUnits: this.#inputs.address('queryUnits'),
      unitsPerQuery: 2,
      early: true,
    });
  }

  #takeLogits(count: number): readonly Logits[] {
    const { gpu, config } = this.#options;
    const kept = this.#kept.take();
    const rowBytes = config.vocabSize * Float32Array.BYTES_PER_ELEMENT;
    gpu.stream.copyOnDevice({
      source: this.#arena.address(this.#regions.logits),
      target: kept,
      sizeBytes: count * rowBytes,
    });
    gpu.stream.copyToHost(this.#largest, this.#arena.address(this.#regions.largest), count * 4);
    gpu.stream.synchronize();
    const { buffer, byteOffset } = this.#largest.bytes;
    const largest = new Int32Array(buffer, byteOffset, count);
    return Array.from(
      largest,
      (id, row) =>
        new DeviceLogits(this.#options, id, { at: kept + BigInt(row * rowBytes), rowBytes }),
    );
  }

  #grid(variant: AttendRows): number {
    let grid = this.#grids.get(variant);
    if (grid === undefined) {
      const { format, headDim } = this.#options.blocks.pool;
      grid = this.#options.gpu.kernels.attendGrid({ format, headDim, rows: variant });
      this.#grids.set(variant, grid);
    }
    return grid;
  }
}
