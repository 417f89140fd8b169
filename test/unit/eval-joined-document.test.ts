import { describe, expect, it } from 'vitest';
import type { EvalDocument } from '../../eval/datasets.ts';
import { statusBytes } from '../../eval/engine-process.ts';
import { joinDocuments, spread } from '../../eval/joined-document.ts';

const part = (id: string, words: number): EvalDocument => ({
  id,
  split: 'prose',
  document: Array(words).fill(id).join(' '),
  questions: [{ question: `What is ${id}?`, answers: [id] }],
});

describe('joined documents', () => {
  const parts = [part('a', 3), part('b', 3), part('c', 3)];
  const countTokens = (text: string): number => text.trim().split(' ').length;

  it.each([
    [1, 'a a a'],
    [4, 'a a a'],
    [5, 'a a a\n\nb b b'],
    [1000, 'a a a\n\nb b b\n\nc c c'],
  ])('come nearest to %d tokens', (tokens, expected) => {
    expect(joinDocuments(parts, { tokens, countTokens }).document).toBe(expected);
  });

  it('keep the questions of their parts', () => {
    const { questions } = joinDocuments(parts, { tokens: 6, countTokens });
    expect(questions.map(({ question }) => question)).toEqual(['What is a?', 'What is b?']);
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
