import type { EvalDocument, EvalQuestion } from './datasets.ts';

export interface JoinedDocument {
  readonly document: string;
  /** The questions of all its parts, in order. */
  readonly questions: readonly EvalQuestion[];
}

export interface JoinOptions {
  /** How long the whole should be. */
  readonly tokens: number;
  readonly countTokens: (text: string) => number;
}

const separator = '\n\n';

/**
 * Documents one after another, an empty line between them, as many from the beginning as bring the
 * token count nearest to `tokens`; at least one. Tokens are counted document by document, which is
 * off by less than two a seam.
 */
export function joinDocuments(
  documents: readonly EvalDocument[],
  { tokens, countTokens }: JoinOptions,
): JoinedDocument {
  let total = 0;
  let count = 0;
  for (const { document } of documents) {
    const longer = total + countTokens(count === 0 ? document : separator + document);
    if (count > 0 && Math.abs(longer - tokens) > Math.abs(total - tokens)) break;
    total = longer;
    count++;
  }
  const parts = documents.slice(0, count);
  return {
    document: parts.map(({ document }) => document).join(separator),
    questions: parts.flatMap(({ questions }) => questions),
  };
}

/** `count` values spread evenly over `values`; all of them if there are fewer. */
export function spread<T>(values: readonly T[], count: number): readonly T[] {
  if (values.length <= count) return values;
  const step = values.length / count;
  return Array.from({ length: count }, (_, i) => values[Math.floor(i * step)] as T);
}
