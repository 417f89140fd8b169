import { assert } from '../src/core/assert.ts';
import type { EvalDocument, EvalQuestion } from './datasets.ts';

export interface JoinedDocument {
  readonly document: string;
  /** The questions of all its parts, in order. */
  readonly questions: readonly EvalQuestion[];
}

/**
 * Documents one after another, an empty line between them, as many from the beginning as bring the
 * token count nearest to `tokens`; at least one.
 */
export function joinDocuments(documents: readonly EvalDocument[], tokens: number): JoinedDocument {
  let total = 0;
  let count = 0;
  for (const { id, tokens: own } of documents) {
    assert(own !== undefined, `expected a token count for ${id}`);
    if (count > 0 && Math.abs(total + own - tokens) > Math.abs(total - tokens)) break;
    total += own;
    count++;
  }
  const parts = documents.slice(0, count);
  return {
    document: parts.map(({ document }) => document).join('\n\n'),
    questions: parts.flatMap(({ questions }) => questions),
  };
}

/** `count` values spread evenly over `values`; all of them if there are fewer. */
export function spread<T>(values: readonly T[], count: number): readonly T[] {
  if (values.length <= count) return values;
  const step = values.length / count;
  return Array.from({ length: count }, (_, i) => values[Math.floor(i * step)] as T);
}
