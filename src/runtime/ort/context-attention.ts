import { defined } from '../../core/assert.ts';
import type { Closeable } from '../../core/closeable.ts';
import type { ModelConfig } from '../../model/config.ts';
import type { OrtContextView } from './context-cache.ts';
import type { OrtBinding, OrtEnvironment, OrtSession } from './session.ts';
import type { OrtTensor } from './tensor.ts';

/** Some tokens' queries, and where their attention over a context goes (`contextGraph`). */
export interface ContextPart {
  readonly query: OrtTensor;
  readonly output: OrtTensor;
  readonly largest: OrtTensor;
  readonly share: OrtTensor;
}

/** What attends to what. */
export interface ContextAttentionOptions {
  /** The graph of `contextGraph`. */
  readonly session: OrtSession;
  /** Must outlive the attention. */
  readonly view: OrtContextView;
  readonly config: ModelConfig;
}

/** Added to the logits of heads without rows. */
const hidden = -1e30;

/**
 * A context's attention in every layer. Its rows stay bound from call to call, and so do queries
 * and results as long as they lie in the same place.
 */
export class ContextAttention implements Closeable {
  /** By layer. */
  readonly #bindings: readonly OrtBinding[];
  readonly #absent: readonly OrtTensor[];
  #bound: ContextPart | undefined;

  constructor(environment: OrtEnvironment, { session, view, config }: ContextAttentionOptions) {
    const layers = Array.from({ length: config.layers }, (_, layer) => layer);
    this.#absent = layers.map((layer) =>
      environment.tensor(absentHeads(view, config, layer), [1, config.queryHeads]),
    );
    this.#bindings = layers.map((layer) => {
      const binding = session.bind();
      for (let kvHead = 0; kvHead < config.kvHeads; kvHead++) {
        const head = layer * config.kvHeads + kvHead;
        binding.input(`key.${kvHead}`, defined(view.keyTensors[head], `head ${head}`));
        binding.input(`value.${kvHead}`, defined(view.valueTensors[head], `head ${head}`));
      }
      binding.input('absent', defined(this.#absent[layer], `layer ${layer}`));
      return binding;
    });
  }

  bind(part: ContextPart): void {
    if (this.#bound === part) return;
    for (const binding of this.#bindings) {
      binding.input('query', part.query);
      for (const name of ['output', 'largest', 'share'] as const) binding.output(name, part[name]);
    }
    this.#bound = part;
  }

  run(layer: number): void {
    defined(this.#bindings[layer], `layer ${layer}`).run();
  }

  close(): void {
    for (const binding of this.#bindings) binding.close();
    for (const tensor of this.#absent) tensor.close();
  }
}

/** `[queryHeads]` of a layer: what is added to the largest logit of each head. */
function absentHeads(
  { lengths }: OrtContextView,
  { kvHeads, queryHeads }: ModelConfig,
  layer: number,
): Float32Array {
  const group = queryHeads / kvHeads;
  return Float32Array.from({ length: queryHeads }, (_, queryHead) =>
    lengths[layer * kvHeads + Math.floor(queryHead / group)] === 0 ? hidden : 0,
  );
}
