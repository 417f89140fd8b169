import { assert } from '../../core/assert.ts';
import type { KvLayout } from '../../core/kv-layout.ts';
import type { ScoreSlice } from '../runtime.ts';
import { checkScoreSlice } from '../score-slice.ts';
import type { OrtDenseCache } from './dense-cache.ts';
import type { OrtBinding, OrtEnvironment, OrtSession } from './session.ts';
import type { OrtTensor, TensorData } from './tensor.ts';

/** One call of a dense graph: shapes differ every time, so everything is bound anew. */
export class DenseCall {
  readonly #environment: OrtEnvironment;
  readonly #binding: OrtBinding;
  readonly #cache: OrtDenseCache;
  readonly #tensors: OrtTensor[] = [];

  constructor(environment: OrtEnvironment, session: OrtSession, cache: OrtDenseCache) {
    this.#environment = environment;
    this.#binding = session.bind();
    this.#cache = cache;
    for (const [layer, tensor] of cache.keyTensors.entries()) {
      this.#binding.input(`past_key.${layer}`, tensor);
      this.#binding.output(`present_key.${layer}`, tensor);
    }
    for (const [layer, tensor] of cache.valueTensors.entries()) {
      this.#binding.input(`past_value.${layer}`, tensor);
      this.#binding.output(`present_value.${layer}`, tensor);
    }
  }

  run(ids: Int32Array): void {
    const { length, capacity } = this.#cache;
    const total = length + ids.length;
    assert(ids.length > 0 && total <= capacity, `${total} rows exceed the capacity ${capacity}`);
    this.#input('input_ids', BigInt64Array.from(ids, BigInt), [1, ids.length]);
    const positions = BigInt64Array.from(ids, (_, i) => BigInt(length + i));
    this.#input('position_ids', positions, [1, ids.length]);
    this.#input('last_row', Int32Array.of(total - 1), [1]);
    this.#input('total_rows', Int32Array.of(total), [1]);
    this.#binding.run();
    this.#cache.append(ids.length);
  }

  score(
    slice: ScoreSlice,
    { mask, layout }: { readonly mask: Float32Array; readonly layout: KvLayout },
  ): Int32Array {
    const tokens = slice.ids.length;
    const chunk = slice.chunkEnd - slice.chunkStart;
    checkScoreSlice(slice, layout, this.#cache.length);
    const bounds = {
      sink_end: slice.sinkEnd,
      chunk_start: slice.chunkStart,
      chunk_end: slice.chunkEnd,
      pass_start: slice.passStart,
      pass_end: this.#cache.length + tokens,
    };
    for (const [name, value] of Object.entries(bounds)) {
      this.#input(name, BigInt64Array.of(BigInt(value)), [1]);
    }
    this.#input('mask', mask, [tokens, tokens]);
    const layerScores = Array.from({ length: layout.layers }, (_, layer) => {
      const data = new Float32Array(layout.kvHeads * chunk);
      this.#output(`scores.${layer}`, data, [layout.kvHeads, chunk]);
      return data;
    });
    const predictions = new BigInt64Array(slice.predict ? tokens : 0);
    if (slice.predict) this.#output('predictions', predictions, [1, tokens]);
    this.run(slice.ids);
    raise(slice.scores, layerScores);
    return Int32Array.from(predictions, Number);
  }

  close(): void {
    this.#binding.close();
    for (const tensor of this.#tensors) tensor.close();
  }

  #input(name: string, data: TensorData, shape: readonly number[]): void {
    this.#binding.input(name, this.#tensor(data, shape));
  }

  #output(name: string, data: TensorData, shape: readonly number[]): void {
    this.#binding.output(name, this.#tensor(data, shape));
  }

  #tensor(data: TensorData, shape: readonly number[]): OrtTensor {
    const tensor = this.#environment.tensor(data, shape);
    this.#tensors.push(tensor);
    return tensor;
  }
}

/** Raises the running maxima by a slice's scores, layer after layer. */
function raise(maxima: Float32Array, layerScores: readonly Float32Array[]): void {
  let at = 0;
  for (const scores of layerScores) {
    for (const score of scores) {
      if (score > (maxima[at] as number)) maxima[at] = score;
      at++;
    }
  }
}
