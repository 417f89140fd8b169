import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { defined } from '../../src/core/assert.ts';
import { leastTokens, tokenizeDocument } from '../../src/engine/document.ts';
import type { Checkpoint, Tokenizer } from '../../src/model/checkpoint.ts';
import { ingestRequest } from '../support/engine.ts';
import { randomCheckpoint, type RandomCheckpoint } from '../support/random-checkpoint.ts';

let random: RandomCheckpoint;
let checkpoint: Checkpoint;

beforeAll(async () => {
  random = await randomCheckpoint();
  checkpoint = random.checkpoint;
});
afterAll(() => random.remove());

/** A text of exactly this many tokens. */
function words(count: number): string {
  const text = Array.from({ length: count }, () => ' the')
    .join('')
    .trim();
  expect(checkpoint.tokenizer.encode(text)).toHaveLength(count);
  return text;
}

/** The checkpoint with a tokenizer that notes the length of each text it encodes. */
function spied(encode = (text: string) => checkpoint.tokenizer.encode(text)) {
  const encoded: number[] = [];
  const { tokenizer } = checkpoint;
  const spy: Tokenizer = {
    encode: (text) => {
      encoded.push(text.length);
      return encode(text);
    },
    decode: (ids) => tokenizer.decode(ids),
    tokenBytes: (id) => tokenizer.tokenBytes(id),
    longestTokenBytes: tokenizer.longestTokenBytes,
  };
  return { encoded, checkpoint: { ...checkpoint, tokenizer: spy } };
}

const keepAll = { compression: { method: 'none', keepRatio: 1 } };

describe('a document', () => {
  it('may fill the window but for the template and one token of answer', () => {
    const { config, template } = checkpoint;
    const templateTokens = template.prefixIds(undefined).length + template.suffixIds.length;
    const limit = config.contextLength - templateTokens - 1;
    const fits = tokenizeDocument(checkpoint, ingestRequest(words(limit), keepAll));
    expect(fits.documentIds).toHaveLength(limit);
    const request = ingestRequest(words(limit + 1), keepAll);
    expect(() => tokenizeDocument(checkpoint, request)).toThrow(
      expect.objectContaining({
        code: 'context_too_long',
        message: expect.stringMatching(`at most ${limit} tokens.*but got ${limit + 1}`) as string,
        details: { tokens: limit + 1, limit, window: 1024 },
      }),
    );
  });

  it('must leave room for a reconstruction pass, if its method reconstructs', () => {
    const text = words(800);
    expect(tokenizeDocument(checkpoint, ingestRequest(text, keepAll)).chunkTokens).toBe(0);
    expect(() => tokenizeDocument(checkpoint, ingestRequest(text))).toThrow(
      expect.objectContaining({
        code: 'context_too_long',
        details: expect.objectContaining({ tokens: 800, window: 1024 }) as object,
      }),
    );
  });

  it.each([
    ['of one letter', 'a'.repeat(9_000_000)],
    ['of words', 'some words '.repeat(800_000)],
  ])('%s that cannot fit is refused before it is tokenised', (_, text) => {
    const { encoded, checkpoint: spy } = spied();
    expect(() => tokenizeDocument(spy, ingestRequest(text))).toThrow(
      expect.objectContaining({
        code: 'context_too_long',
        message: expect.stringMatching(/at most 1024 tokens.*at least \d{6}/) as string,
      }),
    );
    expect(encoded).toEqual([]);
  });

  it('is judged by its beginning if it is long, words and all', () => {
    const longest = checkpoint.tokenizer.longestTokenBytes * checkpoint.config.contextLength;
    for (const text of ['the '.repeat(longest / 4), 'a'.repeat(longest)]) {
      const { encoded, checkpoint: spy } = spied();
      expect(() => tokenizeDocument(spy, ingestRequest(text))).toThrow(
        expect.objectContaining({ code: 'context_too_long' }),
      );
      expect(encoded.every((characters) => characters <= longest / 2)).toBe(true);
    }
  });

  it('is not refused for many characters if its tokens are long', () => {
    const { tokenizer, config } = checkpoint;
    const ids = Array.from({ length: config.vocabSize }, (_, id) => id);
    const long = ids
      .map((id) => tokenizer.decode([id]))
      .find((text) => text.length >= 14 && tokenizer.encode(text.repeat(2)).length === 2);
    const text = defined(long, 'a long word').repeat(700).trim();
    expect(text.length).toBeGreaterThan(8 * config.contextLength);
    const { documentIds } = tokenizeDocument(checkpoint, ingestRequest(text, keepAll));
    expect(documentIds.length).toBeLessThan(710);
  });

  it('whose characters have no tokens is refused', () => {
    const { checkpoint: spy } = spied(() => new Int32Array());
    expect(() => tokenizeDocument(spy, ingestRequest('\u0004'))).toThrow(
      expect.objectContaining({ code: 'invalid_argument' }),
    );
  });

  it('cannot have instructions that overrun the window', () => {
    const { encoded, checkpoint: spy } = spied();
    const request = ingestRequest('Text.', { instructions: 'a'.repeat(1_000_000) });
    expect(() => tokenizeDocument(spy, request)).toThrow(
      expect.objectContaining({
        code: 'context_too_long',
        message: expect.stringContaining('tokens of instructions') as string,
      }),
    );
    expect(encoded).toEqual([]);
  });
});

describe('the id of a document', () => {
  const idOf = (...args: Parameters<typeof ingestRequest>): string =>
    tokenizeDocument(checkpoint, ingestRequest(...args)).id;

  it('is the same for the same request', () => {
    expect(idOf('A text.')).toBe(idOf('A text.'));
    expect(idOf('A text.')).toMatch(/^ctx_[0-9a-f]{40}$/);
  });

  it('differs with everything that its numbers depend on', () => {
    const ids = [
      idOf('A text.'),
      idOf('A text!'),
      idOf('A text.', { tenantSalt: 'other' }),
      idOf('A text.', { instructions: 'Be brief.' }),
      idOf('A text.', { compression: { keepRatio: 0.2 } }),
      idOf('A text.', { compression: { method: 'random' } }),
      idOf('A text.', { compression: { budget: 'uniform' } }),
      idOf('A text.', { compression: { precision: 'f32' } }),
      tokenizeDocument({ ...checkpoint, fingerprint: 'sha256:1' }, ingestRequest('A text.')).id,
    ];
    expect(new Set(ids).size).toBe(ids.length);
  });

  it('does not depend on what may change later', () => {
    const usage = { ttlMs: 1, pinned: true, labels: { a: 'b' } };
    expect(idOf('A text.', { usage })).toBe(idOf('A text.'));
  });
});

describe('leastTokens', () => {
  it('is never more than the tokens there are', () => {
    const { tokenizer } = checkpoint;
    const texts = ['', 'a', words(300), 'x y\n\n  z '.repeat(50), '汉字 测试 '.repeat(40)];
    for (const text of texts) {
      for (const limit of [1, 5, 20, 100]) {
        const least = leastTokens(tokenizer, text, limit);
        expect(least).toBeLessThanOrEqual(tokenizer.encode(text).length);
      }
    }
  });
});
