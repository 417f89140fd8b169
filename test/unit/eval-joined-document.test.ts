import { describe, expect, it } from 'vitest';
import type { EvalDocument } from '../../eval/datasets.ts';
import { loadProse } from '../../eval/datasets.ts';
import { statusBytes } from '../../eval/engine-process.ts';
import { joinDocuments, spread } from '../../eval/joined-document.ts';

const part = (id: string, tokens: number | undefined): EvalDocument => ({
  id,
  split: 'prose',
  document: `Text of ${id}.`,
  tokens,
  questions: [{ question: `What is ${id}?`, answers: [id] }],
});

describe('joined documents', () => {
  const parts = [part('a', 100), part('b', 100), part('c', 100)];

  it.each([
    [1, 'Text of a.'],
    [149, 'Text of a.'],
    [151, 'Text of a.\n\nText of b.'],
    [10_000, 'Text of a.\n\nText of b.\n\nText of c.'],
  ])('come nearest to %d tokens', (tokens, expected) => {
    expect(joinDocuments(parts, tokens).document).toBe(expected);
  });

  it('keep the questions of their parts', () => {
    const { questions } = joinDocuments(parts, 200);
    expect(questions.map(({ question }) => question)).toEqual(['What is a?', 'What is b?']);
  });

  it('need token counts', () => {
    expect(() => joinDocuments([part('a', undefined)], 10)).toThrow(/token count for a/);
  });

  it('of the shipped prose reach 6,000 tokens', () => {
    const count = joinDocuments(loadProse(), 6000).questions.length;
    // 200 tokens and 8 questions a passage: about 30 passages.
    expect(count).toBeGreaterThan(200);
    expect(count).toBeLessThan(300);
  });
});

describe('values spread over a list', () => {
  it('are as many as asked for, from its beginning on, evenly', () => {
    expect(spread([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 4)).toEqual([0, 2, 5, 7]);
    expect(spread([1, 2], 4)).toEqual([1, 2]);
  });
});

describe('memory of a process', () => {
  const status = 'Name:\tnode\nVmHWM:\t  123456 kB\nRssAnon:\t      789 kB\n';

  it('is read from its status file, in bytes', () => {
    expect(statusBytes(status, 'VmHWM')).toBe(123_456 * 1024);
    expect(statusBytes(status, 'RssAnon')).toBe(789 * 1024);
  });

  it('is no number if the system does not say', () => {
    expect(statusBytes(status, 'VmSwap')).toBeNaN();
  });
});
