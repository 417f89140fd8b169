import { loadProse, type EvalDocument } from '../eval/datasets.ts';
import type { JoinedDocument } from '../eval/joined-document.ts';
import { createRandom, type Random } from '../src/core/random.ts';

/** Documents of any length, and as many as wanted, made of the passages in `eval/data`. */
export interface Texts {
  /** The same number and length always make the same document; another number, another document. */
  document(wanted: { readonly number: number; readonly tokens: number }): JoinedDocument;
}

/** Single passages of about 200 tokens, and five of them in one. The longer would fit nowhere. */
const splits: ReadonlySet<string> = new Set(['prose', 'prose-medium']);

/**
 * @param charactersPerToken of the model's tokenizer in this prose; lengths are only as near as
 *   this average is.
 */
export function createTexts(charactersPerToken: number): Texts {
  const passages = loadProse().filter(({ split }) => splits.has(split));
  return {
    document({ number, tokens }) {
      const characters = tokens * charactersPerToken;
      const parts = choose(shuffled(passages, createRandom(number)), characters);
      return {
        // Two short documents may begin with the same passage: the title tells them apart.
        document: [`Collection ${number}`, ...parts.map((part) => part.document)].join('\n\n'),
        questions: parts.flatMap((part) => part.questions),
      };
    },
  };
}

/** Of the passages those that still fit, in order; the shortest one if none does. */
function choose(passages: readonly EvalDocument[], characters: number): readonly EvalDocument[] {
  let left = characters;
  const fitting = passages.filter(({ document }) => {
    const fits = document.length <= left;
    if (fits) left -= document.length;
    return fits;
  });
  if (fitting.length > 0) return fitting;
  return passages.toSorted((a, b) => a.document.length - b.document.length).slice(0, 1);
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
