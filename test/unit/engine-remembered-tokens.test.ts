import { describe, expect, it } from 'vitest';
import { rememberTokens } from '../../src/engine/remembered-tokens.ts';

describe('a tokenizer that remembers', () => {
  const open = () => {
    const encoded: string[] = [];
    const tokenizer = rememberTokens({
      encode: (text) => {
        encoded.push(text);
        return Int32Array.of(text.length, encoded.length);
      },
      decode: (ids) => [...ids].join(' '),
      tokenBytes: (id) => Uint8Array.of(id),
      longestTokenBytes: 7,
    });
    return { encoded, tokenizer };
  };
  const long = (name: string): string => name.repeat(2000);

  it('tokenises a long text once, as long as few others come in between', () => {
    const { encoded, tokenizer } = open();
    const first = tokenizer.encode(long('a'));
    for (const name of ['b', 'c', 'd', 'e', 'f', 'g', 'h']) tokenizer.encode(long(name));
    expect(tokenizer.encode(long('a'))).toBe(first);
    expect(encoded).toHaveLength(8);
    tokenizer.encode(long('i'));
    tokenizer.encode(long('a'));
    expect(encoded).toHaveLength(9);
    tokenizer.encode(long('b'));
    expect(encoded).toHaveLength(10);
  });

  it('tells texts apart, and does not keep short ones', () => {
    const { encoded, tokenizer } = open();
    const [one, other] = [tokenizer.encode(`${long('a')}1`), tokenizer.encode(`${long('a')}2`)];
    expect(one).not.toEqual(other);
    expect(tokenizer.encode('short')).not.toEqual(tokenizer.encode('short'));
    expect(encoded).toHaveLength(4);
  });

  it('is otherwise the tokenizer that it is made of', () => {
    const { tokenizer } = open();
    expect(tokenizer.decode([1, 2])).toBe('1 2');
    expect(tokenizer.tokenBytes(9)).toEqual(Uint8Array.of(9));
    expect(tokenizer.longestTokenBytes).toBe(7);
  });
});
