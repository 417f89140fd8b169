import { z } from 'zod';
import { ReadonceError } from '../core/errors.ts';
import { parseChecked } from './files.ts';

/** A token added to the vocabulary outside the merges: control tokens, mostly. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
}

/** A byte-level BPE tokenizer, whatever file said it. */
export interface TokenizerDefinition {
  /** Token → id, in the alphabet of byte-level BPE; added tokens may be among them. */
  readonly vocab: Readonly<Record<string, number>>;
  /** Pairs of tokens, best first. */
  readonly merges: readonly (readonly [string, string])[];
  /** A piece that is a token itself is not merged anew (Llama 3). */
  readonly ignoreMerges: boolean;
  readonly addedTokens: readonly AddedToken[];
  /** How text is cut before merging, as tokenizer.json has it. */
  readonly preTokenizer: object;
}

/** Most tokens a vocabulary may have; the largest known have 262,144. */
const maxTokens = 2 ** 21;

function isTokenId(value: unknown): boolean {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < maxTokens;
}

function isVocab(value: unknown): value is Record<string, number> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
  const ids: unknown[] = Object.values(value);
  return ids.length <= maxTokens && ids.every(isTokenId);
}

function isPair(value: unknown): boolean {
  if (typeof value === 'string') return value.split(' ').length === 2;
  return Array.isArray(value) && value.length === 2 && value.every((x) => typeof x === 'string');
}

function isMerges(value: unknown): value is (string | [string, string])[] {
  return Array.isArray(value) && value.every(isPair);
}

const addedTokenSchema = z.object({
  id: z.int().nonnegative().max(maxTokens),
  content: z.string().min(1),
  lstrip: z.boolean().default(false),
  rstrip: z.boolean().default(false),
  single_word: z.boolean().default(false),
});

const componentSchema = z.looseObject({ type: z.string() });
type Component = z.infer<typeof componentSchema>;

const tokenizerSchema = z.object({
  added_tokens: z.array(addedTokenSchema).default([]),
  normalizer: componentSchema.nullish(),
  pre_tokenizer: componentSchema.nullish(),
  decoder: componentSchema.nullish(),
  model: z.object({
    type: z.string().default('BPE'),
    // zod's record would check 50,000 keys one by one, and drops a token named __proto__.
    vocab: z.custom<Record<string, number>>(isVocab, 'expected an object of token ids'),
    merges: z.custom<(string | [string, string])[]>(isMerges, 'expected a list of token pairs'),
    ignore_merges: z.boolean().default(false),
  }),
});

/**
 * The definition that a tokenizer.json holds.
 * @throws ReadonceError `invalid_argument` for a malformed file, `unsupported` for tokenizers other
 * than byte-level BPE without a normalizer (pieces of text must tokenise on their own)
 */
export function parseTokenizerJson(value: unknown): TokenizerDefinition {
  const parsed = parseChecked(tokenizerSchema, value, 'tokenizer.json');
  const { model, pre_tokenizer: preTokenizer, decoder, normalizer } = parsed;
  requireSupported(model.type === 'BPE', 'model', model.type);
  requireSupported(changesNothing(normalizer), 'normalizer', normalizer?.type);
  const byteLevel = steps(preTokenizer, 'pretokenizers').find((step) => step.type === 'ByteLevel');
  requireSupported(
    byteLevel !== undefined && byteLevel['add_prefix_space'] !== true,
    'pre_tokenizer',
    preTokenizer?.type,
  );
  requireSupported(
    steps(decoder, 'decoders').some((step) => step.type === 'ByteLevel'),
    'decoder',
    decoder?.type,
  );
  for (const { content, lstrip, rstrip, single_word: singleWord } of parsed.added_tokens) {
    requireSupported(!lstrip && !rstrip && !singleWord, 'added token', content);
  }
  return {
    vocab: model.vocab,
    merges: model.merges.map((pair) => (typeof pair === 'string' ? splitPair(pair) : pair)),
    ignoreMerges: model.ignore_merges,
    addedTokens: parsed.added_tokens.map(({ id, content }) => ({ id, content })),
    preTokenizer: preTokenizer ?? {},
  };
}

function splitPair(pair: string): readonly [string, string] {
  const space = pair.indexOf(' ');
  return [pair.slice(0, space), pair.slice(space + 1)];
}

function requireSupported(supported: boolean, part: string, got: string | undefined): void {
  if (supported) return;
  throw new ReadonceError(
    'unsupported',
    `Expected byte-level BPE (no normalizer, no prefix space, no stripping) for the tokenizer's ` +
      `${part} but got ${got ?? 'none'}`,
  );
}

/** The steps of a component, which is a sequence of them or one itself. */
function steps(component: Component | null | undefined, key: string): readonly Component[] {
  if (component === null || component === undefined) return [];
  if (component.type !== 'Sequence') return [component];
  return parseChecked(z.array(componentSchema), component[key], `${key} in tokenizer.json`);
}

function changesNothing(normalizer: Component | null | undefined): boolean {
  return steps(normalizer, 'normalizers').length === 0;
}
