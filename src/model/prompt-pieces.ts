import type { BpeTokenizer } from './bpe-tokenizer.ts';

/**
 * Token ids of pieces of a prompt in which even places (0, 2, …) are the template's and odd ones
 * are ordinary text. Ordinary text that touches, of whichever piece, is tokenised as one.
 */
export function encodePieces(pieces: readonly string[], tokenizer: BpeTokenizer): Int32Array {
  const ids: number[] = [];
  let ordinary = '';
  const flush = (): void => {
    ids.push(...tokenizer.encode(ordinary));
    ordinary = '';
  };
  for (const [i, piece] of pieces.entries()) {
    const parts = i % 2 === 0 ? splitControlTokens(piece, tokenizer.controlTokens) : [piece];
    for (const part of parts) {
      const id = i % 2 === 0 ? tokenizer.controlTokens.get(part) : undefined;
      if (id === undefined) {
        ordinary += part;
      } else {
        flush();
        ids.push(id);
      }
    }
  }
  flush();
  return Int32Array.from(ids);
}

/** Cuts a text at control tokens, the longest where several begin; the tokens are parts too. */
function splitControlTokens(
  text: string,
  controlTokens: ReadonlyMap<string, number>,
): readonly string[] {
  if (controlTokens.size === 0) return [text];
  const longestFirst = [...controlTokens.keys()].toSorted((a, b) => b.length - a.length);
  const escaped = longestFirst.map((token) => token.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
  return text.split(new RegExp(`(${escaped.join('|')})`)).filter((part) => part !== '');
}
