import { assert } from '../core/assert.ts';

/** The text of an answer while its tokens arrive. */
export interface AnswerText {
  /**
   * Takes the next token. 'stop': a stop string came up, the answer is complete and no further
   * token may be pushed.
   */
  push(id: number): 'continue' | 'stop';
  /** No more tokens come: decides what was held back. May be called again, and after 'stop'. */
  finish(): void;
  /** What was emitted so far; after `finish`, the answer: trimmed, cut at the first stop string. */
  readonly text: string;
}

/** How tokens become text, where the text ends, and who gets it. */
export interface AnswerTextOptions {
  /** Raw bytes of a token, empty for control tokens. */
  readonly tokenBytes: (id: number) => Uint8Array;
  /** The answer ends before the first of these. They are compared with the text before trimming. */
  readonly stop: readonly string[];
  /** Gets the answer piece by piece, never empty; the pieces together are `text`. */
  readonly emit: (text: string) => void;
}

/**
 * Holds text back only as long as it is undecided: an incomplete UTF-8 sequence, what may become a
 * stop string, and white space that may turn out to be the answer's end. How the answer's bytes are
 * split into tokens makes no difference to it.
 */
export function createAnswerText(options: AnswerTextOptions): AnswerText {
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  const stops = options.stop.filter(canOccur);
  const trimmed = createTrimmedEmitter(options.emit);
  /** Decoded text that may be, or become, the beginning of a stop string. */
  let undecided = '';
  let state: 'open' | 'stopped' | 'finished' = 'open';

  const decide = (final: boolean): void => {
    const end = findStop(undecided, stops, final);
    trimmed.push(undecided.slice(0, end.start));
    undecided = undecided.slice(end.start);
    if (end.found) state = 'stopped';
  };

  return {
    push: (id) => {
      assert(state === 'open', `expected no token after the answer ${state}`);
      undecided += decoder.decode(options.tokenBytes(id), { stream: true });
      decide(false);
      return state === 'open' ? 'continue' : 'stop';
    },
    finish: () => {
      if (state !== 'open') return;
      undecided += decoder.decode();
      state = 'finished';
      decide(true);
    },
    get text() {
      return trimmed.text();
    },
  };
}

/** Decoded text is well-formed, so lone surrogates never match; the empty string is no stop. */
function canOccur(stop: string): boolean {
  return stop !== '' && !/\p{Surrogate}/u.test(stop);
}

/**
 * Where the first stop string begins or, unless `final`, might begin once more text comes; the end
 * of the text if nowhere.
 */
function findStop(
  text: string,
  stops: readonly string[],
  final: boolean,
): { readonly start: number; readonly found: boolean } {
  for (let start = 0; start < text.length; start++) {
    if (stops.some((stop) => text.startsWith(stop, start))) return { start, found: true };
    const rest = text.slice(start);
    if (!final && stops.some((stop) => stop.startsWith(rest))) return { start, found: false };
  }
  return { start: text.length, found: false };
}

/** Emits text without white space at its beginning, and at its end only once more text follows. */
function createTrimmedEmitter(emit: (text: string) => void) {
  let text = '';
  let space = '';
  return {
    push: (piece: string): void => {
      const pending = text === '' ? piece.trimStart() : space + piece;
      const body = pending.trimEnd();
      space = pending.slice(body.length);
      if (body === '') return;
      text += body;
      emit(body);
    },
    text: () => text,
  };
}
