import { assert } from '../../core/assert.ts';
import type { ModelConfig } from '../../model/config.ts';
import type { ScoreSlice } from '../runtime.ts';
import type { OrtDenseCache } from './dense-cache.ts';
import type { RopeTensors } from './rope-tensors.ts';
import type { OrtBinding, OrtEnvironment, OrtSession } from './session.ts';
import type { OrtTensor, TensorData } from './tensor.ts';

/** Layers `[from, to)`. */
export interface LayerRange {
  readonly from: number;
  readonly to: number;
}

/** A reconstruction pass's part of a dense call. */
export interface ScorePart {
  readonly slice: ScoreSlice;
  readonly mask: ScoreMask;
}

/** `[group · T, keys]`: which of a score's keys each query sees. */
export interface ScoreMask {
  readonly data: Float32Array;
  readonly group: number;
  readonly tokens: number;
  readonly keys: number;
}

/** What a dense call computes, and where it puts the pairs. */
export interface DenseCallOptions {
  readonly config: ModelConfig;
  readonly cache: OrtDenseCache;
  readonly ids: Int32Array;
  readonly score: ScorePart | undefined;
  readonly rope: RopeTensors;
}

/**
 * One slice of tokens through all layers, some layers at a time. Shapes differ every time, so
 * everything is bound anew.
 */
export class DenseCall {
  readonly #environment: OrtEnvironment;
  readonly #options: DenseCallOptions;
  readonly #tokens: number;
  readonly #shared: Readonly<Record<string, OrtTensor>>;
  readonly #tensors: OrtTensor[] = [];
  readonly #predictions: BigInt64Array;
  /** What the layers so far left: the residual stream and its normalised copy. */
  #state: Readonly<Record<'residual' | 'normalized', OrtTensor>> | undefined;

  constructor(environment: OrtEnvironment, options: DenseCallOptions) {
    this.#environment = environment;
    this.#options = options;
    const { cache, ids, score } = options;
    const { length, capacity } = cache;
    const tokens = ids.length;
    const total = length + tokens;
    assert(tokens > 0 && total <= capacity, `${total} rows exceed the capacity ${capacity}`);
    this.#tokens = tokens;
    this.#predictions = new BigInt64Array(score?.slice.predictions === undefined ? 0 : tokens);
    const positions = BigInt64Array.from(ids, (_, i) => BigInt(length + i));
    this.#shared = {
      ...options.rope.inputs,
      position_ids: this.#tensor(positions, [1, tokens]),
      last_row: this.#tensor(Int32Array.of(total - 1), [1]),
      total_rows: this.#tensor(Int32Array.of(total), [1]),
      ...(score !== undefined && this.#scoreInputs(score, total)),
    };
  }

  /** Computes some layers; the first call those from the tokens on, the others what follows. */
  run(session: OrtSession, layers: LayerRange): void {
    const binding = session.bind();
    try {
      this.#bindInputs(binding, layers);
      const scores = this.#bindOutputs(binding, layers);
      binding.run();
      const { score } = this.#options;
      if (score !== undefined) raise(score.slice.scores, scores, layers.from);
    } finally {
      binding.close();
    }
  }

  /** After the last layer: counts the rows, hands out the predictions. */
  finish(): void {
    const { cache, score } = this.#options;
    cache.append(this.#tokens);
    score?.slice.predictions?.set(Int32Array.from(this.#predictions, Number));
  }

  close(): void {
    for (const tensor of this.#tensors.splice(0)) tensor.close();
  }

  #bindInputs(binding: OrtBinding, { from }: LayerRange): void {
    const { ids } = this.#options;
    const state =
      from === 0
        ? { input_ids: this.#tensor(BigInt64Array.from(ids, BigInt), [1, ids.length]) }
        : this.#state;
    assert(state !== undefined, 'expected the state of earlier layers');
    const inputs: Readonly<Record<string, OrtTensor>> = { ...state, ...this.#shared };
    for (const [name, tensor] of Object.entries(inputs)) binding.input(name, tensor);
  }

  /** @returns the layers' scores, to be filled by the run */
  #bindOutputs(binding: OrtBinding, layers: LayerRange): readonly Float32Array[] {
    const { config, cache, score } = this.#options;
    const layerScores: Float32Array[] = [];
    for (let layer = layers.from; layer < layers.to; layer++) {
      for (const [name, tensors] of [
        ['key', cache.keyTensors],
        ['value', cache.valueTensors],
      ] as const) {
        const tensor = tensors[layer];
        assert(tensor !== undefined, `expected layer ${layer} in the cache`);
        binding.input(`past_${name}.${layer}`, tensor);
        binding.output(`present_${name}.${layer}`, tensor);
      }
      if (score === undefined) continue;
      const chunk = score.slice.chunkEnd - score.slice.chunkStart;
      const data = new Float32Array(config.kvHeads * chunk);
      binding.output(`scores.${layer}`, this.#tensor(data, [config.kvHeads, chunk]));
      layerScores.push(data);
    }
    if (layers.to < config.layers) {
      this.#state = { residual: this.#hidden(), normalized: this.#hidden() };
      binding.output('residual_out', this.#state.residual);
      binding.output('normalized_out', this.#state.normalized);
    } else if (this.#predictions.length > 0) {
      binding.output('predictions', this.#tensor(this.#predictions, [1, this.#tokens]));
    }
    return layerScores;
  }

  #scoreInputs({ slice, mask }: ScorePart, total: number): Readonly<Record<string, OrtTensor>> {
    const bound = (row: number): OrtTensor => this.#tensor(BigInt64Array.of(BigInt(row)), [1]);
    return {
      sink_end: bound(slice.sinkEnd),
      chunk_start: bound(slice.chunkStart),
      chunk_end: bound(slice.chunkEnd),
      pass_start: bound(slice.passStart),
      pass_end: bound(total),
      mask: this.#tensor(mask.data, [mask.group * mask.tokens, mask.keys]),
      group_shape: this.#tensor(
        BigInt64Array.from([mask.group, mask.tokens, mask.keys], BigInt),
        [3],
      ),
    };
  }

  #hidden(): OrtTensor {
    const { hiddenSize } = this.#options.config;
    return this.#tensor(new Float32Array(this.#tokens * hiddenSize), [1, this.#tokens, hiddenSize]);
  }

  #tensor(data: TensorData, shape: readonly number[]): OrtTensor {
    const tensor = this.#environment.tensor(data, shape);
    this.#tensors.push(tensor);
    return tensor;
  }
}

/** Raises the running maxima by a slice's scores, layer after layer from `from` on. */
function raise(maxima: Float32Array, layerScores: readonly Float32Array[], from: number): void {
  let at = from * (layerScores[0]?.length ?? 0);
  for (const scores of layerScores) {
    for (const score of scores) {
      if (score > (maxima[at] as number)) maxima[at] = score;
      at++;
    }
  }
}
