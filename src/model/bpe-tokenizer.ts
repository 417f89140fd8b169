import { Tokenizer as BpeEngine } from '@huggingface/tokenizers';
import { ReadonceError } from '../core/errors.ts';
import { alphabetToBytes } from './byte-alphabet.ts';
import type { Tokenizer } from './checkpoint.ts';
import type { AddedToken, TokenizerDefinition } from './tokenizer-definition.ts';

/**
 * A byte-level BPE tokenizer. Control tokens are not in the vocabulary that encodes, so no text
 * yields one. All added tokens are control tokens, marked special or not (some checkpoints leave
 * the mark out), but for runs of white space, which are ordinary text.
 */
export class BpeTokenizer implements Tokenizer {
  /** Text → id of each control token. */
  readonly controlTokens: ReadonlyMap<string, number>;
  readonly longestTokenBytes: number;
  /** One more than the largest id. */
  readonly idCount: number;
  readonly #engine: BpeEngine;
  readonly #tokens: readonly (Uint8Array | undefined)[];

  /** @throws ReadonceError `invalid_argument` if the tokenizer library refuses the definition */
  constructor(definition: TokenizerDefinition) {
    const control = definition.addedTokens.filter(({ content }) => content.trim() !== '');
    const spaces = definition.addedTokens.filter(({ content }) => content.trim() === '');
    this.controlTokens = new Map(control.map(({ content, id }) => [content, id]));
    const vocab = Object.entries(definition.vocab).filter(
      ([token]) => !this.controlTokens.has(token),
    );
    this.#tokens = bytesOfTokens(vocab, spaces);
    const ids = [...vocab.map(([, id]) => id), ...definition.addedTokens.map(({ id }) => id)];
    this.idCount = ids.reduce((most, id) => Math.max(most, id + 1), 0);
    this.longestTokenBytes = this.#tokens.reduce(
      (most, bytes) => Math.max(most, bytes?.byteLength ?? 0),
      1,
    );
    this.#engine = createEngine(definition, { vocab, spaces, control: this.controlTokens });
  }

  encode(text: string): Int32Array {
    if (text === '') return new Int32Array(0);
    return Int32Array.from(this.#engine.encode(text, { add_special_tokens: false }).ids);
  }

  decode(ids: Iterable<number>): string {
    const bytes = Array.from(ids, (id) => this.tokenBytes(id));
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(Buffer.concat(bytes));
  }

  tokenBytes(id: number): Uint8Array {
    return this.#tokens[id] ?? new Uint8Array(0);
  }
}

function bytesOfTokens(
  vocab: readonly (readonly [string, number])[],
  spaces: readonly AddedToken[],
): readonly (Uint8Array | undefined)[] {
  const tokens: (Uint8Array | undefined)[] = [];
  for (const [token, id] of vocab) {
    tokens[id] = alphabetToBytes(token) ?? Buffer.from(token, 'utf8');
  }
  for (const { content, id } of spaces) tokens[id] = Buffer.from(content, 'utf8');
  return tokens;
}

function createEngine(
  definition: TokenizerDefinition,
  parts: {
    readonly vocab: readonly (readonly [string, number])[];
    readonly spaces: readonly AddedToken[];
    readonly control: ReadonlyMap<string, number>;
  },
): BpeEngine {
  const { vocab, spaces, control } = parts;
  const tokenizerJson = {
    added_tokens: spaces.map(({ id, content }) => ({
      id,
      content,
      special: false,
      normalized: false,
    })),
    normalizer: null,
    pre_tokenizer: withUnicodeDigits(definition.preTokenizer),
    post_processor: null,
    decoder: null,
    model: {
      type: 'BPE',
      vocab: Object.fromEntries(vocab),
      merges: definition.merges.filter(([left, right]) => !control.has(left + right)),
      ignore_merges: definition.ignoreMerges,
    },
  };
  try {
    return new BpeEngine(tokenizerJson, {});
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ReadonceError(
      'invalid_argument',
      `Expected a tokenizer that @huggingface/tokenizers takes but got: ${reason}`,
      { cause: error },
    );
  }
}

/**
 * Writes the step `Digits` as the split it stands for. The library's own cuts at ASCII digits only,
 * while the Rust original, with which checkpoints are trained, cuts at all numbers of Unicode.
 */
function withUnicodeDigits(step: object): object {
  if ('pretokenizers' in step && Array.isArray(step.pretokenizers)) {
    const inner: readonly object[] = step.pretokenizers;
    return { ...step, pretokenizers: inner.map(withUnicodeDigits) };
  }
  if (!('type' in step) || step.type !== 'Digits') return step;
  const individual = 'individual_digits' in step && step.individual_digits === true;
  const pattern = { Regex: individual ? '\\p{N}' : '\\p{N}+' };
  return { type: 'Split', pattern, behavior: 'Isolated', invert: false };
}
