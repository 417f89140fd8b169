import type { KvLayout } from '../core/kv-layout.ts';

/** One teacher-forced reconstruction pass (arXiv 2505.23416, section 3). */
export interface ReconstructionPass {
  /** Token ids before the chunk: the repeat instruction, and S. */
  readonly promptIds: Int32Array;
  /** The chunk, document tokens `[chunkStart, chunkEnd)`. */
  readonly chunkStart: number;
  readonly chunkEnd: number;
}

/** What a method's plan depends on: known before the model runs. */
export interface ScoringPlanInput {
  readonly layout: KvLayout;
  /** |P| */
  readonly prefixTokens: number;
  readonly documentIds: Int32Array;
  /** S */
  readonly suffixIds: Int32Array;
  /** The model's window, tokens. */
  readonly contextLength: number;
  /** Tokenises ordinary text. */
  encode(text: string): Int32Array;
}

/** What a method may ask of the model while it scores. Methods know no runtime. */
export interface ScoringAccess extends ScoringPlanInput {
  /** Post-RoPE document keys of one head, `[n, headDim]` float32; read only. */
  documentKeys(head: number): Float32Array;
  /**
   * Runs a reconstruction pass over the whole dense cache and returns, per head and chunk token,
   * the largest attention any query of the pass paid it:
   * `[layers · kvHeads, chunkEnd − chunkStart]`.
   */
  reconstruct(pass: ReconstructionPass): Promise<Float32Array>;
}

/**
 * How document pairs are ranked. A higher score is kept longer; only the order of scores matters to
 * the budgets, so any scale will do, but scores must be finite.
 */
export interface ScoringMethod {
  /** The word of the HTTP contract. */
  readonly name: string;
  /** Bumped whenever the same document would get other scores: part of the context's identity. */
  readonly version: number;
  readonly description: string;
  /** Source paper, or null for a baseline of our own. */
  readonly paper: string | null;
  /** Only keepRatio 1 makes sense (method `none`). */
  readonly keepsAll: boolean;
  /**
   * Tokens of a reconstruction chunk for this document, 0 if the method does not reconstruct.
   * @throws ReadonceError `context_too_long` when the document leaves no room for a pass.
   */
  chunkTokens(input: ScoringPlanInput): number;
  /** Scores `[layers · kvHeads, n]`. */
  score(access: ScoringAccess): Promise<Float32Array>;
}
