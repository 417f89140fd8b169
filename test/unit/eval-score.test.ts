import { describe, expect, it } from 'vitest';
import { isRight, normalizeAnswer } from '../../eval/score.ts';

describe('the scorer', () => {
  it.each([
    ['  Ada Finch \n', 'ada finch'],
    ['4  May\n\t1911', '4 may 1911'],
    ['Sheffield.', 'sheffield'],
    ['"Sheffield"', 'sheffield'],
    ['"Sheffield."', 'sheffield'],
    ['"Sheffield".', 'sheffield'],
    ['‘in the  “north”’', 'in the “north”'],
    ['« Nord »', 'nord'],
    ['1:45 p.m.', '1:45 p.m'],
    ['wait..', 'wait.'],
    ['"', '"'],
    ['"half open', '"half open'],
    ['its slogan is "go".', 'its slogan is "go"'],
    ['', ''],
  ])('compares %j as %j', (text, expected) => {
    expect(normalizeAnswer(text)).toBe(expected);
  });

  it('accepts any of the answers, and nothing but them', () => {
    const accepted = ['4 May 1911', 'On 4 May 1911.'];
    expect(isRight('on 4 May 1911', accepted)).toBe(true);
    expect(isRight('4 may 1911.', accepted)).toBe(true);
    expect(isRight('in 4 May 1911', accepted)).toBe(false);
    expect(isRight('4 May', accepted)).toBe(false);
    expect(isRight('', accepted)).toBe(false);
  });
});
