import { describe, expect, it } from 'vitest';
import {
  leadInTokens,
  reconstructionChunkTokens,
  reconstructionPasses,
} from '../../src/compression/reconstruction.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import { fakeAccess } from '../contract/method-contract-access.ts';

// One token a byte; the template takes 20 + 3 tokens.
const firstPrompt = '\n\nRepeat the previous context exactly.';
const laterPrompt = '\n\nRepeat the part of the previous context exactly, starting with ';
const template = 23;
const longerPrompt = laterPrompt.length + leadInTokens;

function refusal(tokens: number, contextLength: number): ReadonceError | undefined {
  try {
    reconstructionChunkTokens(fakeAccess({ tokens, contextLength }));
    return undefined;
  } catch (error) {
    if (error instanceof ReadonceError) return error;
    throw error;
  }
}

describe('reconstruction passes', () => {
  it('ask for the whole context, then S, when one chunk is enough', () => {
    const access = fakeAccess({ tokens: 1500 });
    const [pass, ...others] = reconstructionPasses(access);
    expect(others).toEqual([]);
    expect(pass).toEqual({
      promptIds: Int32Array.of(...access.encode(firstPrompt), ...access.suffixIds),
      chunkStart: 0,
      chunkEnd: 1500,
    });
  });

  it('name the last 8 tokens of the chunk before, between the prompt and S', () => {
    const access = fakeAccess({ tokens: 4700 });
    const [first, second, third, ...others] = reconstructionPasses(access);
    expect(others).toEqual([]);
    expect(first).toMatchObject({ chunkStart: 0, chunkEnd: 2000 });
    expect(second).toEqual({
      promptIds: Int32Array.of(
        ...access.encode(laterPrompt),
        ...access.documentIds.subarray(1992, 2000),
        ...access.suffixIds,
      ),
      chunkStart: 2000,
      chunkEnd: 4000,
    });
    expect(third).toMatchObject({ chunkStart: 4000, chunkEnd: 4700 });
    expect(third?.promptIds.subarray(-11, -3)).toEqual(access.documentIds.subarray(3992, 4000));
  });

  it('never run past the window', () => {
    const contextLength = 8192;
    for (const tokens of [1, 1999, 2000, 2001, 6100, 7000, 7839]) {
      const access = fakeAccess({ tokens, contextLength });
      for (const { promptIds, chunkStart, chunkEnd } of reconstructionPasses(access)) {
        const end = access.prefixTokens + tokens + promptIds.length + (chunkEnd - chunkStart);
        expect(end).toBeLessThanOrEqual(contextLength);
      }
    }
  });
});

describe('reconstruction chunk size', () => {
  it('is 2,000 while the window has room for that', () => {
    const longest = 8192 - template - longerPrompt - 2000;
    for (const tokens of [1, 255, 2000, longest]) {
      expect(reconstructionChunkTokens(fakeAccess({ tokens }))).toBe(2000);
    }
    expect(reconstructionChunkTokens(fakeAccess({ tokens: longest + 1 }))).toBe(1999);
  });

  it('counts the longer prompt for a document of several chunks', () => {
    const chunk = reconstructionChunkTokens(fakeAccess({ tokens: 7000 }));
    expect(chunk).toBe(8192 - template - 7000 - longerPrompt);
  });

  it('counts the first prompt only for a document of one chunk', () => {
    const chunk = reconstructionChunkTokens(fakeAccess({ tokens: 400, contextLength: 1000 }));
    expect(chunk).toBe(1000 - template - 400 - firstPrompt.length);
  });

  it('leaves a short document alone in a small window that has 256 tokens of room', () => {
    const contextLength = template + 30 + firstPrompt.length + 256;
    expect(reconstructionChunkTokens(fakeAccess({ tokens: 30, contextLength }))).toBe(256);
    expect(refusal(30, contextLength - 1)?.code).toBe('context_too_long');
  });

  it('names tokens, limit and window when it refuses a document', () => {
    const limit = 8192 - template - longerPrompt - 256;
    const error = refusal(limit + 1, 8192);
    expect(error?.code).toBe('context_too_long');
    expect(error?.message).toContain(`at most ${limit} tokens`);
    expect(error?.message).toContain('window of 8192 tokens');
    expect(error?.message).toContain(`got ${limit + 1}`);
    expect(error?.details).toEqual({ tokens: limit + 1, limit, window: 8192 });
  });

  it.each([400, 570, 600, 700, 2048, 8192])(
    'accepts a document of the limit that it names for a window of %i',
    (contextLength) => {
      const limit = Number(refusal(contextLength, contextLength)?.details['limit']);
      expect(limit).toBeGreaterThan(0);
      expect(refusal(limit, contextLength)).toBeUndefined();
      expect(refusal(limit + 1, contextLength)?.details['limit']).toBe(limit);
    },
  );

  it('allows no document in a window that is too small for any', () => {
    expect(refusal(1, 300)?.details).toEqual({ tokens: 1, limit: 0, window: 300 });
  });
});
