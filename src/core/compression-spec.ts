/**
 * How a context is compressed, every choice made. The words are those of the HTTP contract;
 * `src/compression/registry.ts` has what is built.
 */
export interface CompressionSpec {
  /** Scoring method, a name of `GET /methods`. */
  readonly method: string;
  /** Fraction of the document's KV pairs kept, (0, 1]. 1 for method `none`. */
  readonly keepRatio: number;
  /** How pairs are chosen over layers and heads. */
  readonly budget: string;
  /** Stored element type. */
  readonly precision: string;
}
