import type { ModelConfig } from '../config.ts';

/** What a kind of decoder calls its tensors. Graphs are built from the Hugging Face names. */
export interface ModelFamily {
  /** As in `ModelConfig.family`. */
  readonly name: string;
  /** Values of `architectures` in config.json. */
  readonly architectures: readonly string[];
  /** Values of `general.architecture` in GGUF metadata. */
  readonly ggufArchitectures: readonly string[];
  /** Every tensor a graph of `config` needs: Hugging Face name → shape. */
  tensorShapes(config: ModelConfig): ReadonlyMap<string, readonly number[]>;
  /** Tensors that may lie in a checkpoint and change nothing when left out. */
  isRedundant(name: string, config: ModelConfig): boolean;
  /** The GGUF name of a Hugging Face tensor name. */
  ggufName(name: string): string;
  /** Heads whose rows GGUF stores with the two rotary halves interleaved; undefined: none. */
  ggufInterleavedHeads(name: string, config: ModelConfig): number | undefined;
}
