import { assert, defined } from '../core/assert.ts';
import { concatenate } from '../core/concatenate.ts';
import { ReadonceError } from '../core/errors.ts';
import type { BpeTokenizer } from './bpe-tokenizer.ts';
import { encodePieces } from './prompt-pieces.ts';
import type { RenderMessages, TemplateMessage } from './template-renderer.ts';

/** Token ids of what comes after the first user's text of a conversation. */
export interface Conversation {
  /** Assistant, user, …, user: from the end of the turn before to the last user's text. */
  laterIds(turns: readonly TemplateMessage[]): Int32Array;
  /** From an answer's end to where the next user's text begins. */
  readonly endOfAnswerIds: Int32Array;
}

/** A template, and what it writes around a single user's text. */
export interface ConversationSource {
  readonly render: RenderMessages;
  readonly tokenizer: BpeTokenizer;
  readonly before: string;
  readonly after: string;
}

/**
 * Takes apart what a template writes between turns. Users' texts are tokenised apart from it, as
 * documents and queries are; an assistant's text is tokenised together with the template's text
 * beside it, since what a model generates joins it too.
 * @throws ReadonceError `unsupported` if the template fails, or does not write every turn once, in
 * order and with the same text around it, however many there are
 */
export function createConversation(source: ConversationSource): Conversation {
  const { tokenizer } = source;
  const { toAssistant, toUser } = takeApart(source);
  return {
    endOfAnswerIds: encodePieces([toUser], tokenizer),
    laterIds(turns) {
      assert(turns.length % 2 === 0, 'expected an answer and a question for each later turn');
      const parts: Int32Array[] = [];
      for (let i = 0; i < turns.length; i += 2) {
        const [answer, question] = [defined(turns[i], 'answer'), defined(turns[i + 1], 'question')];
        assert(
          answer.role === 'assistant' && question.role === 'user',
          'expected assistant and user in turn',
        );
        parts.push(
          encodePieces([toAssistant, answer.content, toUser], tokenizer),
          tokenizer.encode(question.content),
        );
      }
      return concatenate(...parts);
    },
  };
}

interface Between {
  readonly toAssistant: string;
  readonly toUser: string;
}

function takeApart(source: ConversationSource): Between {
  const { before, after } = source;
  const [, toAssistant = '', toUser = ''] = textsAround(source.render, users(2));
  const once = [toAssistant, toUser];
  expectTexts(source.render, users(2), [before, ...once, after]);
  expectTexts(source.render, users(3), [before, ...once, ...once, after]);
  const system: TemplateMessage = { role: 'system', content: marker(0) };
  const single = textsUnlessRefused(source.render, [system, ...users(1)]);
  if (single !== undefined) {
    const [beforeSystem = '', beforeUser = ''] = single;
    const expected = [beforeSystem, beforeUser, ...once, after];
    expectTexts(source.render, [system, ...users(2)], expected);
  }
  return { toAssistant, toUser };
}

/** No number of one marker is the beginning of another's, so none is found inside another. */
function marker(place: number): string {
  return `TEXT-${place}-GOES-HERE`;
}

/** A conversation of as many users' turns, with assistant's between them; texts are markers. */
function users(count: number): readonly TemplateMessage[] {
  return Array.from({ length: 2 * count - 1 }, (_, i) => ({
    role: i % 2 === 0 ? 'user' : 'assistant',
    content: marker(i + 1),
  }));
}

/** What is written before, between and after the messages' texts. */
function textsAround(
  render: RenderMessages,
  messages: readonly TemplateMessage[],
): readonly string[] {
  const rendered = render(messages);
  const texts: string[] = [];
  let end = 0;
  for (const { content, role } of messages) {
    const at = rendered.indexOf(content, end);
    const isOnce = at !== -1 && rendered.indexOf(content) === rendered.lastIndexOf(content);
    if (!isOnce) throw moved(`the ${role}'s text once, in its place,`);
    texts.push(rendered.slice(end, at));
    end = at + content.length;
  }
  return [...texts, rendered.slice(end)];
}

function expectTexts(
  render: RenderMessages,
  messages: readonly TemplateMessage[],
  expected: readonly string[],
): void {
  const texts = textsAround(render, messages);
  if (texts.length === expected.length && texts.every((text, i) => text === expected[i])) return;
  throw moved('the same text around every turn');
}

/** Undefined for a template without a place for a system text, which `prefixIds` refuses. */
function textsUnlessRefused(
  render: RenderMessages,
  messages: readonly TemplateMessage[],
): readonly string[] | undefined {
  try {
    return textsAround(render, messages);
  } catch (error) {
    if (error instanceof ReadonceError && error.code === 'unsupported') return undefined;
    throw error;
  }
}

function moved(what: string): ReadonceError {
  return new ReadonceError(
    'unsupported',
    `Expected ${what} in a conversation that the chat template renders but got something else; ` +
      'ask this model with one question at a time',
  );
}
