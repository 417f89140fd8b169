import type { Tokenizer } from '../model/checkpoint.ts';

/** A document is put, or asked, right after it was looked up: few of them are between the two. */
const mostTexts = 8;

/** Shorter texts are tokenised before anybody would notice; longer ones take too much room. */
const [shortestText, longestText] = [1024, 2 ** 20];

/**
 * A tokenizer that remembers the tokens of the last long texts, which callers share and do not
 * write to: a document is tokenised when it is looked up, and again when it is read.
 */
export function rememberTokens(tokenizer: Tokenizer): Tokenizer {
  /** The most recently used last. */
  const known = new Map<string, Int32Array>();
  return {
    encode: (text) => {
      if (text.length < shortestText || text.length > longestText) return tokenizer.encode(text);
      const ids = known.get(text) ?? tokenizer.encode(text);
      known.delete(text);
      known.set(text, ids);
      for (const oldest of known.keys()) {
        if (known.size <= mostTexts) break;
        known.delete(oldest);
      }
      return ids;
    },
    decode: (ids) => tokenizer.decode(ids),
    tokenBytes: (id) => tokenizer.tokenBytes(id),
    longestTokenBytes: tokenizer.longestTokenBytes,
  };
}
