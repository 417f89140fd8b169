const quotePairs: ReadonlySet<string> = new Set(['""', "''", '“”', '‘’', '«»', '``']);

/**
 * What an answer is compared as: trimmed, lower-case, white space collapsed, without surrounding
 * quotes and a final full stop (on either side of the closing quote).
 */
export function normalizeAnswer(text: string): string {
  const plain = text.trim().toLowerCase().replaceAll(/\s+/g, ' ');
  return withoutQuotes(withoutFullStop(withoutQuotes(plain)));
}

/** Whether an answer is exactly one of those accepted, both normalised. */
export function isRight(answer: string, accepted: readonly string[]): boolean {
  const given = normalizeAnswer(answer);
  return accepted.some((candidate) => normalizeAnswer(candidate) === given);
}

function withoutQuotes(text: string): string {
  const ends = text.length < 2 ? '' : `${text.at(0)}${text.at(-1)}`;
  return quotePairs.has(ends) ? text.slice(1, -1).trim() : text;
}

function withoutFullStop(text: string): string {
  return text.endsWith('.') ? text.slice(0, -1).trimEnd() : text;
}
