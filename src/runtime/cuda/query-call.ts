import { assert, defined } from '../../core/assert.ts';
import type { Closeable } from '../../core/closeable.ts';
import { ReadonceError } from '../../core/errors.ts';
import type { KvLayout } from '../../core/kv-layout.ts';
import type { ComputeType } from '../../graph/layer-graphs.ts';
import type { ModelConfig } from '../../model/config.ts';
import type { ForwardSlot, Logits } from '../runtime.ts';
import { Arena, Layout, type Region } from './arena.ts';
import type { BlockPool } from './block-pool.ts';
import { mostQueryTokens, mostSlots } from './calls.ts';
import type { CudaContextView } from './context-cache.ts';
import type { DeviceMemory, PinnedMemory } from './device.ts';
import type { Gpu } from './gpu.ts';
import {
  attendRows,
  partialBytes,
  type AttendRows,
  type HeadDim,
  type ModelType,
} from './kernel-shapes.ts';
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
  /** Places for the tables of units: see `UnitSlotsOptions`. */
  readonly places: number;
  readonly launchStep?: LaunchStep | undefined;
}

/** Puts a captured step, whose inputs are there, into the stream; once, or several times. */
export type LaunchStep = (graph: CudaGraph, stream: CudaStream) => void;

/**
 * Tokens that calls are padded to. Matrix products read all weights whatever the rows, so few sizes
 * cost little, and there are few shapes of steps to capture.
 */
const sizes: readonly number[] = [16, 32, 64, 128, 256, mostQueryTokens];

/** Calls whose logits are kept: a call's own, and the two after it. */
const keptCalls = 3;

/** What a captured step depends on, all else being in the inputs. */
interface Shape {
  readonly tokens: number;
  readonly rows: number;
  readonly variant: AttendRows;
}

interface Step {
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
    Record<'tileStarts' | 'partials' | 'stats' | 'logits' | 'largest', Region>
  >;
  /** Logits of the runs so far, in turn. */
  readonly #kept: DeviceMemory[] = [];
  readonly #largest: PinnedMemory;
  readonly #grids = new Map<AttendRows, number>();
  readonly #steps = new Map<string, Step>();
  #calls = 0;

  /** @throws ReadonceError `out_of_memory` */
  constructor(options: QueryCallOptions) {
    this.#options = options;
    const { gpu, layout, config, places } = options;
    this.#inputs = new QueryInputs(gpu, layout, { mostTokens: mostQueryTokens, places });
    this.#slots = new UnitSlots(gpu, { layout, places, onMove: () => this.#forgetSteps() });
    this.#runner = new LayerRunner({
      ...options,
      mostTokens: mostQueryTokens,
      inputs: {
        input_ids: this.#inputs.address('ids'),
        position_ids: this.#inputs.address('positions'),
        rows: this.#inputs.address('rows'),
      },
    });
    const memory = new Layout();
    const { partials, stats } = this.#partialBytes();
    const logitsBytes = mostSlots * config.vocabSize * Float32Array.BYTES_PER_ELEMENT;
    this.#regions = {
      tileStarts: memory.add(layout.layers * (this.#slots.sequences + 1) * 4),
      partials: memory.add(partials),
      stats: memory.add(stats),
      logits: memory.add(logitsBytes),
      largest: memory.add(mostSlots * 4),
    };
    this.#arena = new Arena(gpu.device, memory);
    this.keepLogits(1);
    this.#largest = gpu.device.pin(mostSlots * 4);
  }

  /**
   * Sees to it that logits last for two calls of the runtime after their own, if one is of so many
   * runs.
   * @throws ReadonceError `out_of_memory`
   */
  keepLogits(runs: number): void {
    const { gpu, config } = this.#options;
    const bytes = mostSlots * config.vocabSize * Float32Array.BYTES_PER_ELEMENT;
    while (this.#kept.length < keptCalls * runs) this.#kept.push(gpu.device.allocate(bytes));
  }

  /**
   * Appends the slots' tokens to their tails: as many together as `callsOf` says.
   * @throws ReadonceError `out_of_memory`
   */
  run(slots: readonly CudaSlot[]): readonly Logits[] {
    assert(slots.length <= mostSlots, `at most ${mostSlots} slots`);
    for (const { tail, ids } of slots) tail.reserve(ids.length);
    const plan = planUnits(slots, this.#options.layout);
    const places = this.#slots.place(plan.units);
    const shape: Shape = {
      tokens: sizeFor(plan.ofToken.length),
      rows: sizeFor(slots.length),
      variant: attendRows(plan.mostRows),
    };
    this.#fill(slots, { plan, places }, shape);
    const isStep = slots.every(({ ids }) => ids.length === 1);
    if (isStep) this.#step(shape);
    else this.#compute(shape);
    const logits = this.#takeLogits(slots.length);
    for (const { tail, ids } of slots) tail.append(ids.length);
    return logits;
  }

  close(): void {
    this.#forgetSteps();
    this.#runner.close();
    this.#inputs.close();
    this.#slots.close();
    this.#arena.close();
    for (const memory of this.#kept) memory.close();
    this.#largest.close();
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

  /** A step is captured the second time, and replayed from then on. */
  #step(shape: Shape): void {
    const { stream } = this.#options.gpu;
    const name = `${shape.tokens}.${shape.rows}.${shape.variant}`;
    const step: Step = this.#steps.get(name) ?? { runs: 0, graph: undefined };
    this.#steps.set(name, step);
    if (step.runs++ === 0) {
      this.#compute(shape);
      return;
    }
    step.graph ??= stream.capture(() => this.#compute(shape));
    const { launchStep } = this.#options;
    if (launchStep === undefined) step.graph.launch(stream);
    else launchStep(step.graph, stream);
  }

  #forgetSteps(): void {
    for (const { graph } of this.#steps.values()) graph?.close();
    this.#steps.clear();
  }

  /** Puts the call's kernels into the stream. */
  #compute(shape: Shape): void {
    const { gpu, config, layout, weights } = this.#options;
    const { kernels, stream } = gpu;
    const { tokens, rows } = shape;
    kernels.plan(stream, {
      layers: layout.layers,
      lengths: this.#inputs.address('lengths'),
      tileStarts: this.#arena.address(this.#regions.tileStarts),
      sequences: this.#slots.sequences,
      kvHeads: layout.kvHeads,
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
      type: this.#modelType(),
      hidden: this.#runner.address('hidden'),
      matrix: weights.head,
      out: logits,
      rows,
      inputs: config.hiddenSize,
      outputs,
    });
    const out = this.#arena.address(this.#regions.largest);
    kernels.largest(stream, { logits, out, rows, outputs });
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
      tileStarts:
        this.#arena.address(this.#regions.tileStarts) + BigInt(layer * (sequences + 1) * 4),
      units: this.#inputs.address('units'),
      partials: this.#arena.address(this.#regions.partials),
      stats: this.#arena.address(this.#regions.stats),
      sequences,
      rows: variant,
      grid: this.#grid(variant),
    };
    kernels.attend(stream, {
      ...parts,
      pool,
      table,
      queries: this.#runner.address('query'),
      lengths,
      kvHeads,
      group,
      early: true,
    });
    kernels.merge(stream, {
      type: this.#modelType(),
      headDim: pool.headDim,
      out: this.#runner.address('attention'),
      queries: tokens,
      kvHeads,
      group,
      first: { ...parts, queryUnits: this.#inputs.address('queryUnits'), unitsPerQuery: 2 },
      early: true,
    });
  }

  #takeLogits(count: number): readonly Logits[] {
    const { gpu, config } = this.#options;
    const kept = defined(this.#kept[this.#calls++ % this.#kept.length], 'a buffer').address;
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
      (id, row) => new DeviceLogits(gpu, id, { at: kept + BigInt(row * rowBytes), rowBytes }),
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

  /** Of the variant that needs most. */
  #partialBytes(): { readonly partials: number; readonly stats: number } {
    const headDim: HeadDim = this.#options.blocks.pool.headDim;
    const each = ([16, 64, 128] as const).map((rows) =>
      partialBytes({
        grid: this.#grid(rows),
        sequences: this.#slots.sequences,
        rows,
        headDim,
      }),
    );
    return {
      partials: Math.max(...each.map(({ partials }) => partials)),
      stats: Math.max(...each.map(({ stats }) => stats)),
    };
  }

  #modelType(): ModelType {
    return this.#options.type === 'float16' ? 'f16' : 'bf16';
  }
}

/** Logits that stay on the device until they are asked for. */
class DeviceLogits implements Logits {
  readonly #gpu: Gpu;
  readonly #largest: number;
  readonly #row: { readonly at: bigint; readonly rowBytes: number };

  constructor(gpu: Gpu, largest: number, row: { at: bigint; rowBytes: number }) {
    this.#gpu = gpu;
    this.#largest = largest;
    this.#row = row;
  }

  argmax(): number {
    if (this.#largest >= 0) return this.#largest;
    throw new ReadonceError(
      'unsupported',
      'Expected finite logits but the model gave others, which happens where its numbers exceed ' +
        'float16: use the CPU, or a model that was trained in float16',
    );
  }

  values(): Float32Array {
    const { at, rowBytes } = this.#row;
    const values = new Float32Array(rowBytes / Float32Array.BYTES_PER_ELEMENT);
    this.#gpu.stream.copyToHost(values, at);
    this.#gpu.stream.synchronize();
    return values;
  }
}

function sizeFor(count: number): number {
  return defined(
    sizes.find((size) => size >= count),
    `a size for ${count}`,
  );
}
