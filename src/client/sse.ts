import { ReadonceError } from '../core/errors.ts';

/** One server-sent event. */
export interface SseEvent {
  /** `message` where the stream names none. */
  readonly event: string;
  readonly data: string;
}

/** Longest unfinished line that is buffered, characters: a wild server must not fill memory. */
const maxLineLength = 16 * 2 ** 20;

/**
 * Parses a stream of server-sent events as the HTML standard says: lines end with CR, LF or CRLF,
 * several `data` lines are joined by LF, comments and unknown fields are skipped, and an event the
 * stream ends within is dropped.
 * @throws ReadonceError `internal` when a line is longer than 16 Mi characters
 */
export async function* parseSse(body: AsyncIterable<Uint8Array>): AsyncGenerator<SseEvent> {
  let event = '';
  let data: string[] = [];
  for await (const line of splitLines(body)) {
    if (line === '') {
      if (data.length > 0) yield { event: event || 'message', data: data.join('\n') };
      event = '';
      data = [];
      continue;
    }
    const colon = line.indexOf(':');
    const field = colon === -1 ? line : line.slice(0, colon);
    const value = colon === -1 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (field === 'event') event = value;
    if (field === 'data') data.push(value);
  }
}

async function* splitLines(body: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const bytes of body) {
    rest += decoder.decode(bytes, { stream: true });
    // A CR at the very end may be half of a CRLF: it waits for the next bytes.
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop() ?? '';
    if (rest.length > maxLineLength) {
      throw new ReadonceError(
        'internal',
        `Expected event lines of at most ${maxLineLength} characters but got a longer one.`,
      );
    }
    yield* lines;
  }
  if (rest.endsWith('\r')) yield rest.slice(0, -1);
}
