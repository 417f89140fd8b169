import { joinDocuments, type JoinedDocument } from '../eval/joined-document.ts';
import { loadProse } from '../eval/datasets.ts';
import { createRandom, type Random } from '../src/core/random.ts';

/** Documents of any length, and as many as wanted, made of the passages in `eval/data`. */
export interface Library {
  /** The same number and length always make the same document; another number, another document. */
  document(wanted: { readonly number: number; readonly tokens: number }): JoinedDocument;
}

/** Passages of one topic, or of five: long documents of 25 would leave no choice of order. */
const splits: ReadonlySet<string> = new Set(['prose', 'prose-medium']);

/**
 * @param charactersPerToken of the model's tokenizer in this prose; lengths are only as near as
 *   this average is.
 */
export function createLibrary(charactersPerToken: number): Library {
  const passages = loadProse().filter(({ split }) => splits.has(split));
  const countTokens = (text: string): number => text.length / charactersPerToken;
  return {
    document({ number, tokens }) {
      const ordered = shuffled(passages, createRandom(number));
      const joined = joinDocuments(ordered, { tokens, countTokens });
      // Short documents begin alike if they begin with the same passage: the title tells them apart.
      return { ...joined, document: `Collection ${number}\n\n${joined.document}` };
    },
  };
}

/** Fisher and Yates. */
function shuffled<T>(values: readonly T[], random: Random): readonly T[] {
  const result = [...values];
  for (let end = result.length; end > 1; end--) {
    const chosen = Math.floor(random.next() * end);
    [result[end - 1], result[chosen]] = [result[chosen] as T, result[end - 1] as T];
  }
  return result;
}
