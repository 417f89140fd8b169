import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AssertionError } from '../../src/core/assert.ts';
import { createAnswerText } from '../../src/engine/answer-text.ts';

interface Run {
  readonly text: string;
  readonly emitted: readonly string[];
  /** How many tokens were taken. */
  readonly pushed: number;
}

/** Pushes tokens until told to stop, then finishes. */
function answer(tokens: readonly Uint8Array[], stop: readonly string[]): Run {
  const emitted: string[] = [];
  const result = createAnswerText({
    tokenBytes: (id) => tokens[id] ?? new Uint8Array(),
    stop,
    emit: (text) => emitted.push(text),
  });
  let pushed = 0;
  while (pushed < tokens.length && result.push(pushed++) === 'continue');
  result.finish();
  return { text: result.text, emitted, pushed };
}

function words(...texts: readonly string[]): readonly Uint8Array[] {
  return texts.map((text) => Buffer.from(text));
}

/** Decodes all, cuts at the first stop string, trims. */
function naive(bytes: Uint8Array, stop: readonly string[]): string {
  const text = new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
  const starts = stop.map((word) => text.indexOf(word)).filter((start) => start >= 0);
  return text.slice(0, Math.min(text.length, ...starts)).trim();
}

// Few distinct characters, so that stop strings, white space and split sequences meet often.
const character = fc.constantFrom('a', 'b', ' ', '\n', 'é', '€', '😀', '\u00a0', '\ufeff');
const phrase = fc.array(character, { maxLength: 4 }).map((parts) => parts.join(''));
const stops = fc.array(
  phrase.filter((word) => word !== ''),
  { maxLength: 3 },
);
const badBytes = fc.uint8Array({ maxLength: 3 });
const bytes = fc
  .array(fc.oneof({ weight: 6, arbitrary: phrase.map((text) => Buffer.from(text)) }, badBytes), {
    maxLength: 12,
  })
  .map((parts) => Buffer.concat(parts));

/** Cuts bytes into tokens at arbitrary places, empty tokens (control tokens) included. */
function split(whole: Uint8Array, cuts: readonly number[]): readonly Uint8Array[] {
  const places = cuts.map((cut) => cut % (whole.length + 1)).sort((a, b) => a - b);
  return [0, ...places].map((start, i) => whole.subarray(start, places[i] ?? whole.length));
}

const cuts = fc.array(fc.nat(), { maxLength: 20 });

describe('createAnswerText', () => {
  it('gives the naive text for any bytes, split anywhere', () => {
    fc.assert(
      fc.property(bytes, cuts, stops, (whole, places, stop) => {
        expect(answer(split(whole, places), stop).text).toBe(naive(whole, stop));
      }),
      { numRuns: 3000 },
    );
  });

  it('emits pieces that are the text when put together, none of them empty', () => {
    fc.assert(
      fc.property(bytes, cuts, stops, (whole, places, stop) => {
        const { text, emitted } = answer(split(whole, places), stop);
        expect(emitted.join('')).toBe(text);
        expect(emitted).not.toContain('');
      }),
      { numRuns: 1000 },
    );
  });

  it('has emitted a trimmed beginning of the text at any time', () => {
    fc.assert(
      fc.property(bytes, stops, (whole, stop) => {
        const final = naive(whole, stop);
        const result = createAnswerText({
          tokenBytes: (id) => whole.subarray(id, id + 1),
          stop,
          emit: () => {},
        });
        for (let id = 0; id < whole.length; id++) {
          const state = result.push(id);
          expect(final.startsWith(result.text)).toBe(true);
          expect(result.text).toBe(result.text.trim());
          if (state === 'stop') break;
        }
      }),
      { numRuns: 1000 },
    );
  });

  it('emits text as soon as it is decided', () => {
    const { emitted } = answer(words(' ', 'Hello', ' ', 'wor', 'ld', '\n'), ['\n\n']);
    expect(emitted).toEqual(['Hello', ' wor', 'ld']);
  });

  it('holds back incomplete characters, and replaces them if they stay so', () => {
    const euro = Buffer.from('€');
    const parts = [euro.subarray(0, 1), euro.subarray(1, 2), euro.subarray(2)];
    expect(answer(parts, []).emitted).toEqual(['€']);
    expect(answer(parts.slice(0, 2), []).text).toBe('\ufffd');
    expect(answer([Uint8Array.of(0xff), ...words('x')], []).text).toBe('\ufffdx');
  });

  it('stops at a stop string that spans tokens and takes no more tokens', () => {
    const run = answer(words('one', '\n', '\ntwo', 'three'), ['\n\n']);
    expect(run).toEqual({ text: 'one', emitted: ['one'], pushed: 3 });
  });

  it('releases what only looked like a stop string', () => {
    expect(answer(words('a', 'EN', 'x'), ['END']).emitted).toEqual(['a', 'ENx']);
    expect(answer(words('a', 'EN'), ['END']).emitted).toEqual(['a', 'EN']);
  });

  it('matches stop strings before trimming', () => {
    expect(answer(words('\n', '\nanswer'), ['\n\n']).text).toBe('');
    expect(answer(words('yes', ' ', '# no'), [' #']).text).toBe('yes');
  });

  it('cuts at the earliest stop string, even if a later one is complete first', () => {
    expect(answer(words('xab', 'cd'), ['bc', 'abcd']).text).toBe('x');
    expect(answer(words('xab', 'ce'), ['bc', 'abcd']).text).toBe('xa');
  });

  it('ignores stop strings that no text can contain', () => {
    expect(answer(words('😀!'), ['', '\ud83d', '\ude00']).text).toBe('😀!');
  });

  it('may be finished twice, and refuses tokens after its end', () => {
    const emitted: string[] = [];
    const result = createAnswerText({
      tokenBytes: () => Buffer.from('a.'),
      stop: ['.'],
      emit: (text) => emitted.push(text),
    });
    expect(result.push(0)).toBe('stop');
    result.finish();
    result.finish();
    expect(emitted).toEqual(['a']);
    expect(() => result.push(0)).toThrow(AssertionError);
  });
});
