import type { KvLayout } from '../core/kv-layout.ts';
import type { EncodedPairs, Precision } from '../core/precision.ts';
import type { ModelConfig } from '../model/config.ts';

/**
 * The uncompressed cache of one document while it is ingested: every head has the same length.
 * Row r is the pair of the r-th token; keys are post-RoPE.
 */
export interface DenseCache {
  readonly capacity: number;
  /** Rows filled so far; the next token goes to this row and this position. */
  readonly length: number;
  /** Forgets the rows from `length` on. */
  truncate(length: number): void;
  /**
   * The pairs of these rows of one head, in this order, encoded as they are stored. The caller owns
   * the bytes.
   * @throws ReadonceError `unsupported` (values that the precision cannot hold)
   */
  pairs(head: number, rows: Uint32Array, precision: Precision): EncodedPairs;
  /**
   * The keys of rows `[start, end)` of one head, `[end − start, headDim]` float32, for scoring
   * methods that look at them. Slow where they are copied from a device. May be a view: do not
   * write, and do not keep it past the next call that appends.
   */
  keys(head: number, start: number, end: number): Float32Array;
  /** Gives its memory back; idempotent. */
  close(): void;
}

/**
 * A loaded context: each head has its own number of rows, in any order. Queries only read it, any
 * number of them at once.
 */
export interface ContextCache {
  /** Rows of each head in memory, `[layers · kvHeads]`. */
  readonly lengths: Uint32Array;
  /** Bytes of host or device memory held: `Runtime.rowBytes` a row, and what fills up pages. */
  readonly sizeBytes: number;
  /**
   * Fills rows of one head from `firstRow` on. Views that are opened after the call see them. The
   * bytes may be overwritten once it returns, and need not be aligned.
   * @param pairs a piece of what is stored, in `precision`
   */
  write(head: number, firstRow: number, pairs: EncodedPairs, precision: Precision): void;
  /**
   * Fills the first rows of each head with all rows of another context of the same runtime, which
   * has as many at most. Views that are opened after the call see them. `other` may have open
   * views, and stays as it is.
   */
  copyFrom(other: ContextCache): void;
  /**
   * What queries attend to: the first `lengths[head]` of the rows held. Open views share their
   * rows; the more queries share one view, the less is read. Costs no copy.
   */
  view(lengths: Uint32Array): ContextView;
  /**
   * Takes or gives back memory. A head's first rows stay, as many as it had and has; those beyond
   * are uninitialised until the caller fills them. No view may be open. May copy every row that
   * stays, one head after another; after an error only `close` is allowed.
   */
  resize(lengths: Uint32Array): void;
  /** Closes its views, too; idempotent. */
  close(): void;
}

/** A context's rows in host memory, as its device held them. */
export interface HostCopy {
  /** Rows of each head, `[layers · kvHeads]`. */
  readonly lengths: Uint32Array;
  /** Bytes of host memory held. */
  readonly sizeBytes: number;
  /**
   * Rows of each head that come back where `lengths` are asked for, at most its own: the next ones
   * too, to the end of a piece.
   */
  covering(lengths: Uint32Array): Uint32Array;
  /** Gives its memory back; idempotent. */
  close(): void;
}

/** Host memory for contexts that give way on a device: from there they come back sooner. */
export interface HostTier {
  /** Bytes that copies may take. */
  readonly poolBytes: number;
  /** Bytes that the copy of a context of so many rows takes. */
  copyBytes(lengths: Uint32Array): number;
  /** @throws ReadonceError `out_of_memory` */
  copy(context: ContextCache): HostCopy;
  /**
   * A context with the first rows of a copy, as many as its `covering(lengths)` says. The copy
   * stays as it is. The same bits as what was copied.
   * @param lengths default: all
   * @throws ReadonceError `out_of_memory`
   */
  restore(copy: HostCopy, lengths?: Uint32Array): ContextCache;
}

/** Rows of a loaded context that queries attend to. */
export interface ContextView {
  /** Rows of each head, `[layers · kvHeads]`. */
  readonly lengths: Uint32Array;
  close(): void;
}

/**
 * The pairs of a request's own tokens, behind those of its context: the same number in every head.
 * It takes memory with its first token.
 */
export interface Tail {
  readonly length: number;
  /** Bytes of host or device memory held. */
  readonly sizeBytes: number;
  /** Forgets the rows from `length` on. */
  truncate(length: number): void;
  /** Gives up the place among the running requests, and keeps the rows. Copies them. */
  park(): void;
  close(): void;
}

/** Most tokens with which several requests can begin together: more than most questions have. */
export const firstTokens = 64;

/** One request's tokens in a forward call. */
export interface ForwardSlot {
  readonly context: ContextView;
  readonly tail: Tail;
  /** Tokens to append to the tail, at least one. */
  readonly ids: Int32Array;
  /** RoPE position of the first of them. */
  readonly startPosition: number;
}

/**
 * The next-token logits of one slot of a forward call, `[vocabSize]`. They can be asked until the
 * second `forward` call after the one that returned them: the engine computes a step and first
 * questions in one turn before answers see either, and keeps nothing for longer.
 */
export interface Logits {
  /**
   * Index of the largest of `values()`, the lowest one if tied. Cheap: it is all that greedy
   * decoding asks for.
   * @throws AssertionError if the largest is not a finite number; on a GPU, whose types a model may
   * exceed, ReadonceError `unsupported`
   */
  argmax(): number;
  /** All of them, float32. May copy from the device. Stays as it is; do not write. */
  values(): Float32Array;
}

/** Some of the tokens of a reconstruction pass (docs/methods.md, `kvzip`). */
export interface ScoreSlice {
  /** Tokens of the slice, appended behind what `cache` holds. */
  readonly ids: Int32Array;
  /** Rows `[0, sinkEnd)` are the prefix P, the attention sinks of the score's softmax. */
  readonly sinkEnd: number;
  /** Rows `[chunkStart, chunkEnd)` are the scored chunk. */
  readonly chunkStart: number;
  readonly chunkEnd: number;
  /** First row of the pass's own tokens; the slice's own keys are `[passStart, length + T)`. */
  readonly passStart: number;
  /**
   * Running maximum, `[layers · kvHeads, chunkEnd − chunkStart]`: raised where this slice's queries
   * attend more.
   */
  readonly scores: Float32Array;
  /** Gets the next-token predictions, `[T]`, if given (costs the LM head for every token). */
  readonly predictions?: Int32Array | undefined;
}

/**
 * Work in bounded pieces, to be run in order, each once, with anything in between; the cache counts
 * its new rows after the last. Giving up in between loses nothing but the work.
 */
export type Pieces = Iterable<() => void>;

/**
 * A model on a device. Calls are synchronous and not re-entrant: the engine process runs one at a
 * time. Errors of the device become `ReadonceError`s (`internal`, `out_of_memory`).
 */
export interface Runtime {
  /** `ort-cpu`, `ort-cuda` or `reference`. */
  readonly name: string;
  readonly config: ModelConfig;
  readonly layout: KvLayout;
  /** Where its loaded contexts and tails are. */
  readonly memory: 'host' | 'device';
  /** Bytes that one pair takes there: the key and the value of one token in one head. */
  readonly rowBytes: number;
  /**
   * Tokens that best go through the model together in an ingestion, prefill or reconstruction: many
   * for the speed of matrix products; their number bounds the memory of a call.
   */
  readonly sliceTokens: number;
  /** Bytes of its memory that loaded contexts and tails may take, unless configured: asked once. */
  defaultPoolBytes(): number;
  /** Only where contexts are in a device's memory. */
  readonly hostTier?: HostTier | undefined;
  /** Prepares what would delay the first calls; idempotent, takes up to seconds. */
  warm(): void;
  createDense(capacity: number): DenseCache;
  /** Rows are uninitialised until the caller fills them. */
  createContext(lengths: Uint32Array): ContextCache;
  /**
   * All rows of a dense cache as a context, as the model computed them: not rounded to a stored
   * precision beyond what the runtime itself holds. The dense cache is closed, its memory may
   * become the context's: make it with the capacity that is needed.
   */
  contextOf(cache: DenseCache): ContextCache;
  createTail(): Tail;
  /**
   * Appends the tokens to the cache; computes no logits. Positions are the rows.
   * @throws ReadonceError `out_of_memory`: others may give way, and it be called again
   */
  prefill(cache: DenseCache, ids: Int32Array): Pieces;
  /**
   * Appends the slice's tokens and raises `slice.scores`: per KV head, the softmax over sinks,
   * chunk and own keys (causal), maximum over the slice's queries and the head's query group.
   * @throws ReadonceError `out_of_memory`, as `prefill`
   */
  score(cache: DenseCache, slice: ScoreSlice): Pieces;
  /**
   * Appends each slot's tokens to its tail and returns, per slot, the logits after its last token.
   * Tails are distinct, contexts need not be. Several slots are either a step, one token each
   * behind tails that have some, or begin their tails with at most `firstTokens` each. A slot's
   * result does not depend on the others, to the last bit. A call that fails has appended to no
   * tail.
   * @throws ReadonceError `out_of_memory`
   */
  forward(slots: readonly ForwardSlot[]): readonly Logits[];
  /** A device's memory at this moment, whoever uses it. Only of a device with its own. */
  deviceMemory?(): { readonly freeBytes: number; readonly totalBytes: number };
  /**
   * Whether an error tells of a device that this process can no longer use: all there is left to do
   * is to end it, without `close`. Only where a device can be lost. May wait for the device.
   */
  isDeviceLost?(error: unknown): boolean;
  close(): void;
}
