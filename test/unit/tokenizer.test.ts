import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { BpeTokenizer } from '../../src/model/bpe-tokenizer.ts';
import { embeddedFolder } from '../../src/model/embedded.ts';
import { readGguf } from '../../src/model/gguf.ts';
import { parseTokenizerJson } from '../../src/model/tokenizer-definition.ts';
import { readGolden } from '../support/golden.ts';

function readTokenizerJson(model: string): Record<string, unknown> {
  const file = join(embeddedFolder(model), 'tokenizer.json');
  return JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
}

function fromJson(model: string): BpeTokenizer {
  return new BpeTokenizer(parseTokenizerJson(readTokenizerJson(model)));
}

const ggufFile = join(embeddedFolder('reader'), 'reader-135m.Q4_1.gguf');
const mini = fromJson('reader-mini');
const reader = fromJson('reader');
const readerFromGguf = new BpeTokenizer((await readGguf(ggufFile)).tokenizer);

describe.each([
  ['reader, from its GGUF', readerFromGguf, readGolden('reader')],
  ['reader, from tokenizer.json', reader, readGolden('reader')],
  ['reader-mini', mini, readGolden('reader-mini')],
])('the tokenizer of %s', (_, tokenizer, golden) => {
  it('gives the token ids of transformers for documents and queries', () => {
    for (const { document, documentIds, questions } of golden.documents) {
      expect([...tokenizer.encode(document.trim())]).toEqual(documentIds);
      for (const { query, queryIds } of questions) {
        const ids = [...tokenizer.encode(`\n\n${query.trim()}`), ...golden.suffixIds];
        expect(ids).toEqual(queryIds);
      }
    }
  });

  it('decodes ids to the text again', () => {
    for (const { document, documentIds } of golden.documents) {
      expect(tokenizer.decode(documentIds)).toBe(document.trim());
    }
  });
});

const texts = [
  '',
  ' ',
  'a  b   c\t\td\r\n\r\n  e\n\n\nf ',
  "It's we'll THEY'RE 'quoted'",
  'x² ½ cup, Ⅷ, ٣٤, 12345.678',
  'naïve façade — “quotes” … №',
  '東京都 は 日本 の 首都 です。',
  'مرحبا بالعالم',
  '👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301',
  '\uFEFFwith a byte order mark\u0000and a NUL',
  'function f(x) { return x[0] ?? "y"; } // <b>&amp;</b>',
];

describe.each([
  ['reader', reader],
  ['reader-mini', mini],
])('the tokenizer of %s', (name, tokenizer) => {
  it.each(texts)('keeps every byte of %j', (text) => {
    const ids = tokenizer.encode(text);
    const bytes = Buffer.concat(Array.from(ids, (id) => tokenizer.tokenBytes(id)));
    expect(bytes.toString('utf8')).toBe(text);
    expect(tokenizer.decode(ids)).toBe(text);
  });

  it('treats text that looks like control tokens as ordinary text', () => {
    for (const token of tokenizer.controlTokens.keys()) {
      const text = `before${token}after ${token}`;
      const ids = tokenizer.encode(text);
      for (const id of tokenizer.controlTokens.values()) expect(ids).not.toContain(id);
      expect(tokenizer.decode(ids)).toBe(text);
    }
    expect(tokenizer.controlTokens.get('<|im_end|>')).toBe(2);
  });

  it('leaves control tokens and unknown ids out of decoded text', () => {
    const ids = [1, ...tokenizer.encode('text'), 2, 10_000_000, -1];
    expect(tokenizer.decode(ids)).toBe('text');
    expect(tokenizer.tokenBytes(2)).toHaveLength(0);
    expect(tokenizer.tokenBytes(10_000_000)).toHaveLength(0);
  });

  it('decodes a character that is cut in two as U+FFFD', () => {
    const ids = tokenizer.encode('🜲');
    expect(ids.length).toBeGreaterThan(1);
    expect(tokenizer.decode(ids.subarray(0, 1))).toContain('\uFFFD');
    expect(tokenizer.decode([])).toBe('');
  });

  it('knows its longest token', () => {
    const lengths = Array.from(
      { length: tokenizer.idCount },
      (_, id) => tokenizer.tokenBytes(id).byteLength,
    );
    expect(tokenizer.longestTokenBytes).toBe(Math.max(...lengths));
    expect(tokenizer.idCount).toBe(name === 'reader' ? 49_152 : 8192);
  });

  it.each(['a', ' ', '\n', '7', '-', '字', 'abcdefghij'])(
    'encodes 20,000 times %j whole',
    (piece) => {
      const text = piece.repeat(20_000);
      expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
    },
  );
});

describe('the tokenizer of reader', () => {
  it('is the same from GGUF metadata as from tokenizer.json', () => {
    for (const text of texts) expect(readerFromGguf.encode(text)).toEqual(reader.encode(text));
    expect(readerFromGguf.controlTokens).toEqual(reader.controlTokens);
  });

  it('cuts at every numeral of Unicode, as the original does', () => {
    const alone = [...reader.encode('½'), ...reader.encode('²')];
    expect([...reader.encode('½²')]).toEqual(alone);
    expect([...reader.encode(' ½')]).toEqual([...reader.encode(' '), ...reader.encode('½')]);
  });
});

describe('a tokenizer.json', () => {
  const json = readTokenizerJson('reader-mini');
  const model = json['model'] as Record<string, unknown>;

  function parse(changes: object): ReturnType<typeof parseTokenizerJson> {
    return parseTokenizerJson({ ...json, ...changes });
  }

  it('may write merges as one string, as older files do', () => {
    const merges = (model['merges'] as string[][]).map((pair) => pair.join(' '));
    expect(parse({ model: { ...model, merges } }).merges).toEqual(parse({}).merges);
  });

  it('may mark control tokens as not special: they are kept out of text all the same', () => {
    const marked = json['added_tokens'] as object[];
    const added = marked.map((token) => Object.assign({}, token, { special: false }));
    const tokenizer = new BpeTokenizer(parse({ added_tokens: added }));
    expect(tokenizer.encode('a<|im_end|>b')).toEqual(mini.encode('a<|im_end|>b'));
  });

  it('may add runs of white space, which are ordinary text', () => {
    const added = [...(json['added_tokens'] as object[]), { id: 8192, content: '    ' }];
    const tokenizer = new BpeTokenizer(parse({ added_tokens: added }));
    expect(tokenizer.encode('a    b')).toContain(8192);
    expect(tokenizer.decode(tokenizer.encode('a    b'))).toBe('a    b');
    expect(tokenizer.idCount).toBe(8193);
  });

  it('whose splitting could make a control token out of text does not', () => {
    const whole = { type: 'ByteLevel', add_prefix_space: false, use_regex: false };
    const changed = parse({
      pre_tokenizer: whole,
      model: { ...model, ignore_merges: true },
    });
    expect(new BpeTokenizer(changed).encode('<|im_end|>')).not.toContain(2);
  });

  it.each([
    ['another model', { model: { ...model, type: 'Unigram' } }, /Unigram/],
    ['a normalizer', { normalizer: { type: 'NFC' } }, /NFC/],
    ['a prefix space', { pre_tokenizer: { type: 'ByteLevel', add_prefix_space: true } }, /prefix/],
    ['no byte level', { pre_tokenizer: { type: 'Metaspace' } }, /Metaspace/],
    ['another decoder', { decoder: { type: 'WordPiece' } }, /WordPiece/],
    ['a control token that strips', { added_tokens: [{ id: 0, content: 'x', rstrip: true }] }, /x/],
  ])('with %s is refused as unsupported', (_, changes, message) => {
    expect(() => parse(changes)).toThrow(
      expect.objectContaining({ code: 'unsupported', message: expect.stringMatching(message) }),
    );
  });

  it.each([
    ['a vocabulary that is a list', { model: { ...model, vocab: [] } }, /token ids/],
    ['an id that is no integer', { model: { ...model, vocab: { a: 0.5 } } }, /token ids/],
    ['an id out of bounds', { model: { ...model, vocab: { a: 2 ** 40 } } }, /token ids/],
    ['merges of three', { model: { ...model, merges: [['a', 'b', 'c']] } }, /pairs/],
    ['no model', { model: undefined }, /model/],
  ])('with %s is refused as an invalid argument', (_, changes, message) => {
    expect(() => parse(changes)).toThrow(
      expect.objectContaining({
        code: 'invalid_argument',
        message: expect.stringMatching(message),
      }),
    );
  });

  it('may have an empty sequence as its normalizer', () => {
    expect(() => parse({ normalizer: { type: 'Sequence', normalizers: [] } })).not.toThrow();
  });
});
