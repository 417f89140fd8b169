import type { KvLayout } from '../core/kv-layout.ts';
import { atOnce, type Piecewise } from '../core/piecewise.ts';

/** Which document pairs are kept, per head and best first. */
export interface KeptPairs {
  /** Kept document pairs of each head, `[layers · kvHeads]`. */
  readonly counts: Uint32Array;
  /**
   * Document token indices (0 … n − 1), heads one after another, within a head by descending score,
   * ties by ascending position.
   */
  readonly positions: Uint32Array;
  /** The score of each entry of `positions`. */
  readonly scores: Float32Array;
}

/** A rule that turns scores into kept pairs: what a budget is written as. */
export interface BudgetRule {
  /** The word of the HTTP contract. */
  readonly name: string;
  readonly description: string;
  /**
   * Chooses the kept pairs: deterministic, with exact counts, and nested (the pairs of a smaller
   * keepRatio are, head by head, a prefix of those of a larger one).
   * Yields every few milliseconds, as the parts in `budgets/selection.ts` that it is made of do:
   * others are answered in between.
   * @param scores `[layers · kvHeads, n]`
   * @param keepRatio (0, 1]
   */
  choose(scores: Float32Array, layout: KvLayout, keepRatio: number): Piecewise<KeptPairs>;
  /**
   * The kept count of each head at a smaller ratio, `[layers · kvHeads]`, from the stored scores
   * alone: what `choose` would have kept, without scoring again.
   */
  prefixCounts(input: PrefixCountsInput): Uint32Array;
  /** Whether some scores would have made `choose` keep this many document pairs of each head. */
  couldKeep(input: CouldKeepInput): boolean;
}

/** A rule, and its choice all at once. */
export interface Budget extends BudgetRule {
  /** As `choose`, without a pause: for a few scores, or where nobody waits. */
  select(scores: Float32Array, layout: KvLayout, keepRatio: number): KeptPairs;
}

/** The budget of a rule. */
export function budgetOf(rule: BudgetRule): Budget {
  return {
    ...rule,
    select: (scores, layout, keepRatio) => atOnce(rule.choose(scores, layout, keepRatio)),
  };
}

/** Counts that come from elsewhere, with an imported file, and what they should follow from. */
export interface CouldKeepInput {
  /** Document pairs of each head, `[layers · kvHeads]`, each at most `documentTokens`. */
  readonly counts: readonly number[];
  readonly documentTokens: number;
  readonly keepRatio: number;
}

/** A stored context, and the ratio that a query asks for. */
export interface PrefixCountsInput {
  readonly layout: KvLayout;
  readonly documentTokens: number;
  /** At most the one it was stored with. */
  readonly keepRatio: number;
  /** What was kept when stored. */
  readonly stored: KeptPairs;
}
