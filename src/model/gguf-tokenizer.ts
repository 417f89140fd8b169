import { z } from 'zod';
import { ReadonceError } from '../core/errors.ts';
import { parseChecked } from './files.ts';
import { ggufTokenId } from './gguf-schema.ts';
import type { TemplateSource } from './source.ts';
import { parseTokenizerJson } from './tokenizer-definition.ts';
import type { TokenizerDefinition } from './tokenizer-definition.ts';

/** `tokenizer.ggml.token_type` of added tokens: 3 control, 4 user-defined. */
const addedTokenTypes: ReadonlySet<number> = new Set([3, 4]);

function byteLevel(useRegex: boolean): object {
  return { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: useRegex };
}

function sequence(...pretokenizers: readonly object[]): object {
  return { type: 'Sequence', pretokenizers };
}

/** Llama 3: contractions in any case, numbers in threes, line ends apart. */
const llama3Pattern =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|" +
  ' ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+';

interface Splitting {
  readonly preTokenizer: object;
  readonly ignoreMerges: boolean;
}

/** What `tokenizer.ggml.pre` stands for; GGUF stores only the name. */
const splittings: ReadonlyMap<string, Splitting> = new Map([
  ['gpt-2', { preTokenizer: byteLevel(true), ignoreMerges: false }],
  [
    'smollm',
    {
      preTokenizer: sequence({ type: 'Digits', individual_digits: true }, byteLevel(true)),
      ignoreMerges: false,
    },
  ],
  [
    'llama-bpe',
    {
      preTokenizer: sequence(
        { type: 'Split', pattern: { Regex: llama3Pattern }, behavior: 'Isolated', invert: false },
        byteLevel(false),
      ),
      ignoreMerges: true,
    },
  ],
]);

const kindSchema = z.object({ 'tokenizer.ggml.model': z.string() });

const metadataSchema = z.object({
  'tokenizer.ggml.pre': z.string().default('gpt-2'),
  'tokenizer.ggml.tokens': z.array(z.string()),
  'tokenizer.ggml.token_type': z.array(z.number()),
  'tokenizer.ggml.merges': z.array(z.string()),
  'tokenizer.ggml.bos_token_id': ggufTokenId.optional(),
  'tokenizer.ggml.eos_token_id': ggufTokenId.optional(),
  'tokenizer.chat_template': z.string(),
});

/** What GGUF metadata says about text. */
export interface GgufTokenizer {
  readonly tokenizer: TokenizerDefinition;
  /** Entries of the token list, the vocabulary size where the file does not say it. */
  readonly tokenCount: number;
  readonly template: TemplateSource;
}

/**
 * Tokenizer and chat template out of GGUF metadata.
 * @throws ReadonceError `invalid_argument` for missing or malformed metadata, `unsupported` for
 * tokenizers other than byte-level BPE and splittings that are not known
 */
export function parseGgufTokenizer(
  metadata: Readonly<Record<string, unknown>>,
  file: string,
): GgufTokenizer {
  const { 'tokenizer.ggml.model': kind } = parseChecked(
    kindSchema,
    metadata,
    `metadata of ${file}`,
  );
  if (kind !== 'gpt2') {
    throw new ReadonceError(
      'unsupported',
      `Expected gpt2 (byte-level BPE) for tokenizer.ggml.model in ${file} but got ${kind}`,
    );
  }
  const values = parseChecked(metadataSchema, metadata, `metadata of ${file}`);
  const tokens = values['tokenizer.ggml.tokens'];
  const types = values['tokenizer.ggml.token_type'];
  if (types.length !== tokens.length) {
    throw new ReadonceError(
      'invalid_argument',
      `Expected ${tokens.length} entries for tokenizer.ggml.token_type in ${file} but got ${types.length}`,
    );
  }
  const { preTokenizer, ignoreMerges } = splittingOf(values['tokenizer.ggml.pre'], file);
  const tokenizer = parseTokenizerJson({
    added_tokens: tokens.flatMap((content, id) =>
      addedTokenTypes.has(types[id] ?? 0) ? [{ id, content }] : [],
    ),
    pre_tokenizer: preTokenizer,
    decoder: byteLevel(true),
    model: {
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: values['tokenizer.ggml.merges'],
      ignore_merges: ignoreMerges,
    },
  });
  return {
    tokenizer,
    tokenCount: tokens.length,
    template: {
      text: values['tokenizer.chat_template'],
      bosToken: tokens[values['tokenizer.ggml.bos_token_id'] ?? -1] ?? '',
      eosToken: tokens[values['tokenizer.ggml.eos_token_id'] ?? -1] ?? '',
    },
  };
}

function splittingOf(name: string, file: string): Splitting {
  const splitting = splittings.get(name);
  if (splitting !== undefined) return splitting;
  throw new ReadonceError(
    'unsupported',
    `Expected one of ${[...splittings.keys()].join(', ')} for tokenizer.ggml.pre in ${file} but got ${name}`,
  );
}
