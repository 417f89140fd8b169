import type { ModelConfig } from './config.ts';
import type { TemplateMessage } from './template-renderer.ts';

/** Where one tensor's values lie, so that every graph can map the same bytes. */
export interface TensorRef {
  /** Hugging Face name, e.g. `model.layers.0.self_attn.q_proj.weight`. */
  readonly name: string;
  /** Row-major, linear weights as `[outputs, inputs]`. */
  readonly shape: readonly number[];
  /** Absolute path of the file that holds the values. */
  readonly file: string;
  /** Byte range in `file`: `[offsetBytes, offsetBytes + sizeBytes)`, little-endian. */
  readonly offsetBytes: number;
  readonly sizeBytes: number;
  /** Default `float32`. */
  readonly type?: 'float32' | 'float16' | 'bfloat16' | 'uint8' | undefined;
}

/**
 * Linear weights that multiply one input, in four-bit blocks of 32 inputs, for the products of
 * decode steps. With the numbers q of a block a weight is `scale · (q − 8) + shift`.
 */
export interface FourBitLinear {
  readonly inputs: number;
  /** Outputs of each matrix, in order. */
  readonly outputs: readonly number[];
  /** `[outputs, blocks, 16]` uint8: two numbers a byte, the first in the low half. */
  readonly codes: TensorRef;
  /** `[outputs, blocks]` */
  readonly scales: TensorRef;
  /** `[outputs, blocks]` */
  readonly shifts: TensorRef;
}

/**
 * What decode steps multiply by: the float32 values, the checkpoint's own four-bit blocks, or those
 * where it has some (docs/adr/0008-four-bit-decode.md).
 */
export type DecodeWeights = 'f32' | 'q4' | 'auto';

/** Text ↔ token ids. Encoding yields no control token: `<|im_end|>` in a text is plain text. */
export interface Tokenizer {
  /** Token ids of ordinary text; no special tokens are added or recognised. */
  encode(text: string): Int32Array;
  /** Text of token ids, control tokens left out; invalid UTF-8 becomes U+FFFD. */
  decode(ids: Iterable<number>): string;
  /** Raw bytes of one token, for streaming decoders; empty for control tokens. */
  tokenBytes(id: number): Uint8Array;
  /** Bytes of the longest token: `bytes / longest` is a lower bound of a text's token count. */
  readonly longestTokenBytes: number;
}

/**
 * The chat template, split into what comes before, between and after the texts of a conversation.
 * Contents are ordinary text, trimmed; control tokens come from the template alone. What has turns
 * throws `unsupported` for a template that moves their texts about.
 */
export interface PromptTemplate {
  /** P: everything up to and including the user header, with the system text or `instructions`. */
  prefixIds(instructions: string | undefined): Int32Array;
  /** S: end of the user turn and the assistant header. */
  readonly suffixIds: Int32Array;
  /**
   * What follows a document's text: user and assistant in turn, a user first and last. The first
   * goes on in the document's turn, behind a blank line; '' leaves the document alone there.
   */
  turnIds(turns: readonly TemplateMessage[]): Int32Array;
  /** What follows an assistant's answer, its last content token, when the user says `turn`. */
  followUpIds(turn: string): Int32Array;
  /** A whole chat without a document: optionally a system message, then turns as of `turnIds`. */
  chatIds(messages: readonly TemplateMessage[]): Int32Array;
}

/** A model as its files say it. */
export interface Checkpoint {
  /** `reader`, `reader-mini`, or the folder or file name. */
  readonly id: string;
  readonly description: string;
  /** `sha256:…` over config, weights, tokenizer and chat template. */
  readonly fingerprint: string;
  readonly config: ModelConfig;
  /** By Hugging Face name. */
  readonly tensors: ReadonlyMap<string, TensorRef>;
  /** What decode steps multiply by instead, by `fourBitName`; undefined: by `tensors`. */
  readonly fourBit?: ReadonlyMap<string, FourBitLinear> | undefined;
  readonly tokenizer: Tokenizer;
  readonly template: PromptTemplate;
}
