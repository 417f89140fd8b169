import type { ModelConfig } from './config.ts';
import type { TensorEncoding } from './tensor-encodings.ts';
import type { TokenizerDefinition } from './tokenizer-definition.ts';

/** A tensor as a checkpoint file holds it. */
export interface SourceTensor {
  /** Hugging Face name. */
  readonly name: string;
  /** Row-major. */
  readonly shape: readonly number[];
  /** Absolute path. */
  readonly file: string;
  readonly offsetBytes: number;
  readonly sizeBytes: number;
  readonly encoding: TensorEncoding;
  /** Heads whose rows lie with the two rotary halves interleaved; undefined: rows are in order. */
  readonly interleavedHeads: number | undefined;
  /** Values count as rounded to binary16 (those of GGUF files). */
  readonly roundToHalf: boolean;
}

/** The chat template and the names it may use. */
export interface TemplateSource {
  /** Jinja. */
  readonly text: string;
  /** Text of the token, '' if there is none. */
  readonly bosToken: string;
  readonly eosToken: string;
}

/** What a checkpoint's files say, whatever their format. */
export interface CheckpointSource {
  readonly config: ModelConfig;
  readonly tokenizer: TokenizerDefinition;
  readonly template: TemplateSource;
  /** Those that the family needs, no others. */
  readonly tensors: readonly SourceTensor[];
  /** Absolute paths of the files that hold the weights, in a stable order. */
  readonly weightFiles: readonly string[];
}
