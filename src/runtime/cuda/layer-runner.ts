import { assert, defined } from '../../core/assert.ts';
import type { Closeable } from '../../core/closeable.ts';
import { Made } from '../../core/made.ts';
import { layerGraph, type ComputeType, type LayerGraphKind } from '../../graph/layer-graphs.ts';
import type { ModelConfig } from '../../model/config.ts';
import type { OrtBinding, OrtSession } from '../ort/session.ts';
import type { OrtTensor } from '../ort/tensor.ts';
import { Arena, Layout, type Region } from './arena.ts';
import type { Gpu, TensorGpu } from './gpu.ts';
import type { DeviceWeights } from './weights.ts';

/** The graphs of a model, one session of each for all layers. */
export class LayerSessions implements Closeable {
  readonly #sessions = new Map<LayerGraphKind, OrtSession>();
  readonly #made = new Made();

  constructor(gpu: Gpu, config: ModelConfig, type: ComputeType) {
    const kinds: readonly LayerGraphKind[] = ['begin', 'attend', 'between', 'end'];
    try {
      for (const kind of kinds) {
        const session = gpu.ort.createSession(layerGraph(kind, config, type));
        this.#sessions.set(kind, this.#made.add(session));
      }
    } catch (error) {
      this.#made.abandon();
      throw error;
    }
  }

  get(kind: LayerGraphKind): OrtSession {
    return defined(this.#sessions.get(kind), `a session ${kind}`);
  }

  close(): void {
    this.#made.close();
  }
}

/** What a runner works with. */
export interface LayerRunnerOptions {
  readonly gpu: TensorGpu;
  readonly config: ModelConfig;
  readonly type: ComputeType;
  readonly sessions: Pick<LayerSessions, 'get'>;
  readonly weights: Pick<DeviceWeights, 'inputs'>;
  /** Most tokens of a call. */
  readonly mostTokens: number;
  /** Where the integers of a call are; memory of the runner's own by default. */
  readonly inputs?: Readonly<Record<IntegerInput, bigint>>;
}

/** int64, one a token. */
export type IntegerInput = 'input_ids' | 'position_ids' | 'rows';

/** A dense cache's layer, as `attend` takes it. */
export interface DenseLayer {
  readonly keys: OrtTensor;
  readonly values: OrtTensor;
  /** int32 `[1]`, on the device: rows after the call − 1. */
  readonly lastRow: OrtTensor;
  /** int32 `[1]`, in host memory: rows after the call. */
  readonly totalRows: OrtTensor;
}

/** Numbers of tokens that bindings are kept for. */
const keptSizes = 16;

/** What calls of a number of tokens are bound to, by name. */
interface Sized {
  readonly bindings: Map<string, OrtBinding>;
  readonly tensors: Map<string, OrtTensor>;
}

/**
 * Runs the layer graphs over activations of its own, which stay where they are: a captured run may
 * be replayed. Whoever computes beside another, between its runs, needs another runner. A call of T
 * tokens reads and writes the first T rows of each activation.
 */
export class LayerRunner implements Closeable {
  readonly #options: LayerRunnerOptions;
  readonly #arena: Arena;
  readonly #regions: Readonly<Record<Activation, Region>>;
  /** By the number of tokens, those used last at the end. */
  readonly #sizes = new Map<number, Sized>();

  /** @throws ReadonceError `out_of_memory` */
  constructor(options: LayerRunnerOptions) {
    this.#options = options;
    const layout = new Layout();
    const widths = widthsOf(options.config);
    const regions = Object.entries(widths).map(([name, width]) => [
      name,
      layout.add(options.mostTokens * width * (integers.has(name) ? 8 : elementBytes)),
    ]);
    this.#regions = Object.fromEntries(regions) as Record<Activation, Region>;
    this.#arena = new Arena(options.gpu.device, layout);
  }

  /** `input_ids`, `position_ids` and `rows` are int64, one a token; the rest as in `layerGraph`. */
  address(name: Activation): bigint {
    const given = this.#options.inputs?.[name as IntegerInput];
    return given ?? this.#arena.address(this.#regions[name]);
  }

  /** Tokens to the first layer's queries, keys and values. */
  begin(tokens: number): void {
    this.#bound(tokens, 'begin', 0, () => ({
      inputs: this.#some(tokens, 'input_ids', 'position_ids'),
      outputs: { residual_out: this.#residual(tokens, 0), ...this.#projections(tokens) },
    })).run();
  }

  /** A layer's attention over a dense cache, which takes the new keys and values. */
  attend(tokens: number, layer: DenseLayer): void {
    const binding = this.#options.sessions.get('attend').bind();
    try {
      const inputs = {
        ...this.#projections(tokens),
        past_key: layer.keys,
        past_value: layer.values,
        last_row: layer.lastRow,
        total_rows: layer.totalRows,
      };
      bind(binding, inputs, {
        ...this.#some(tokens, 'attention'),
        present_key: layer.keys,
        present_value: layer.values,
      });
      binding.run();
    } finally {
      binding.close();
    }
  }

  /** What follows the attention of `layer`, up to the next one's queries, keys and values. */
  between(tokens: number, layer: number): void {
    this.#bound(tokens, 'between', layer, () => ({
      inputs: {
        residual: this.#residual(tokens, layer),
        ...this.#some(tokens, 'attention', 'position_ids'),
      },
      outputs: { residual_out: this.#residual(tokens, layer + 1), ...this.#projections(tokens) },
    })).run();
  }

  /** What follows the last attention: hidden states of the first `rows` of `rows`. */
  end(tokens: number, rows: number): void {
    const { layers } = this.#options.config;
    const last = layers - 1;
    this.#bound(
      tokens,
      `end`,
      last,
      () => ({
        inputs: {
          residual: this.#residual(tokens, last),
          ...this.#some(tokens, 'attention'),
          rows: this.#tensor(tokens, 'rows', rows),
        },
        outputs: { hidden: this.#tensor(tokens, 'hidden', rows) },
      }),
      rows,
    ).run();
  }

  close(): void {
    for (const tokens of this.#sizes.keys()) this.#forget(tokens);
    this.#arena.close();
  }

  #bound(
    tokens: number,
    kind: LayerGraphKind,
    layer: number,
    values: () => { readonly inputs: Tensors; readonly outputs: Tensors },
    rows = 0,
  ): OrtBinding {
    assert(tokens > 0 && tokens <= this.#options.mostTokens, `${tokens} tokens fit`);
    const { bindings } = this.#sized(tokens);
    const name = `${kind}.${layer}.${rows}`;
    let binding = bindings.get(name);
    if (binding === undefined) {
      const { sessions, weights } = this.#options;
      const { inputs, outputs } = values();
      binding = sessions.get(kind).bind();
      try {
        bind(binding, { ...inputs, ...weights.inputs(kind, layer) }, outputs);
      } catch (error) {
        binding.close();
        throw error;
      }
      bindings.set(name, binding);
    }
    return binding;
  }

  /** What is kept for a number of tokens; makes room for it, and for no more sizes than kept. */
  #sized(tokens: number): Sized {
    const sized = this.#sizes.get(tokens) ?? { bindings: new Map(), tensors: new Map() };
    this.#sizes.delete(tokens);
    this.#sizes.set(tokens, sized);
    const [oldest] = this.#sizes.keys();
    if (this.#sizes.size > keptSizes && oldest !== undefined) this.#forget(oldest);
    return sized;
  }

  #forget(tokens: number): void {
    const { bindings, tensors } = defined(this.#sizes.get(tokens), 'a size that is kept');
    this.#sizes.delete(tokens);
    for (const each of [...bindings.values(), ...tensors.values()]) each.close();
  }

  #projections(tokens: number): Tensors {
    return this.#some(tokens, 'query', 'key', 'value');
  }

  #some(tokens: number, ...names: readonly Activation[]): Tensors {
    return Object.fromEntries(names.map((name) => [name, this.#tensor(tokens, name)]));
  }

  /** The stream between layers changes sides, since a graph reads one and writes the other. */
  #residual(tokens: number, layer: number): OrtTensor {
    return this.#tensor(tokens, layer % 2 === 0 ? 'residual0' : 'residual1');
  }

  /** The first `rows` rows of an activation, for calls of `tokens` tokens. */
  #tensor(tokens: number, name: Activation, rows = tokens): OrtTensor {
    const { tensors } = this.#sized(tokens);
    let tensor = tensors.get(`${name}.${rows}`);
    if (tensor === undefined) {
      const { gpu, config, type } = this.#options;
      const isInteger = integers.has(name);
      const width = widthsOf(config)[name];
      const shape = name === 'rows' ? [rows] : isInteger ? [1, rows] : [1, rows, width];
      tensor = gpu.ort.tensor(isInteger ? 'int64' : type, this.address(name), shape);
      tensors.set(`${name}.${rows}`, tensor);
    }
    return tensor;
  }
}

type Tensors = Readonly<Record<string, OrtTensor>>;

type Activation =
  IntegerInput | 'residual0' | 'residual1' | 'query' | 'key' | 'value' | 'attention' | 'hidden';

const integers: ReadonlySet<string> = new Set(['input_ids', 'position_ids', 'rows']);

/** Of both compute types. */
const elementBytes = 2;

/** Elements of a token. */
function widthsOf(config: ModelConfig): Readonly<Record<Activation, number>> {
  const { hiddenSize, queryHeads, kvHeads, headDim } = config;
  return {
    input_ids: 1,
    position_ids: 1,
    rows: 1,
    residual0: hiddenSize,
    residual1: hiddenSize,
    query: queryHeads * headDim,
    key: kvHeads * headDim,
    value: kvHeads * headDim,
    attention: queryHeads * headDim,
    hidden: hiddenSize,
  };
}

function bind(binding: OrtBinding, inputs: Tensors, outputs: Tensors): void {
  for (const [name, tensor] of Object.entries(inputs)) binding.input(name, tensor);
  for (const [name, tensor] of Object.entries(outputs)) binding.output(name, tensor);
}
