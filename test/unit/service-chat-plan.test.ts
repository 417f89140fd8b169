import { describe, expect, it } from 'vitest';
import { minDocumentCharacters, planChat } from '../../src/service/chat-plan.ts';
import { conversationTurns, questionTurns, type ChatMessage } from '../../src/service/turns.ts';

const long = 'd'.repeat(minDocumentCharacters);
const user = (content: string): ChatMessage => ({ role: 'user', content });
const assistant = (content: string): ChatMessage => ({ role: 'assistant', content });
const system = (content: string): ChatMessage => ({ role: 'system', content });

describe('the plan of a chat', () => {
  it.each<[string, readonly ChatMessage[], object]>([
    [
      'a long system message is a document',
      [system(`\n${long} `), user(' q ')],
      { document: long, instructions: undefined, turns: [user('q')] },
    ],
    [
      "a long user's message is a document",
      [user(long), user('q'), assistant('a'), user('r')],
      { document: long, instructions: undefined, turns: [user('q'), assistant('a'), user('r')] },
    ],
    [
      'a document stands alone in its turn if the assistant goes on',
      [user(long), assistant('a'), user('q')],
      { document: long, instructions: undefined, turns: [user(''), assistant('a'), user('q')] },
    ],
    [
      "a long user's message behind short instructions is a document",
      [system('Be brief.'), user(long), user('q')],
      { document: long, instructions: 'Be brief.', turns: [user('q')] },
    ],
    [
      'a document behind instructions stands alone in its turn too',
      [system('Be brief.'), user(long), assistant('a'), user('q')],
      { document: long, instructions: 'Be brief.', turns: [user(''), assistant('a'), user('q')] },
    ],
    [
      'blank instructions are none',
      [system(' '), user(long), user('q')],
      { document: long, instructions: undefined, turns: [user('q')] },
    ],
    [
      'the first of two long messages is the document',
      [system(long), user(long), assistant('a'), user('q')],
      { document: long, instructions: undefined, turns: [user(long), assistant('a'), user('q')] },
    ],
    [
      'a long message that ends the chat is a question',
      [user(long)],
      { document: undefined, instructions: undefined, turns: [user(long)] },
    ],
    [
      'so it is behind instructions',
      [system('Be brief.'), user(long)],
      { document: undefined, instructions: 'Be brief.', turns: [user(long)] },
    ],
    [
      'short messages are an ordinary chat',
      [system('Be brief.'), user('q'), assistant('a'), user('r')],
      {
        document: undefined,
        instructions: 'Be brief.',
        turns: [user('q'), assistant('a'), user('r')],
      },
    ],
    [
      'a message one character too short is no document',
      [user(long.slice(1)), assistant('a'), user('q')],
      {
        document: undefined,
        instructions: undefined,
        turns: [user(long.slice(1)), assistant('a'), user('q')],
      },
    ],
    [
      'white space does not make a message long',
      [system(`q${' '.repeat(minDocumentCharacters)}`), user('q')],
      { document: undefined, instructions: 'q', turns: [user('q')] },
    ],
  ])('%s', (_, messages, plan) => {
    expect(planChat(messages).unstored()).toEqual(plan);
  });

  it.each<[string, readonly ChatMessage[], readonly (readonly [string, string?])[]]>([
    ['a short system message', [system('s'), user('q')], [['s']]],
    ["a short user's message, even before another's", [user('d'), user('q')], [['d']]],
    [
      "a user's message behind instructions too",
      [system('s'), user('d'), assistant('a'), user('q')],
      [['s'], ['d', 's']],
    ],
    ['nothing of a question alone', [user('q')], []],
    ['no question behind instructions', [system(' '), user('q')], []],
    ['nothing with no conversation behind it', [user('d'), assistant('a'), assistant('b')], []],
  ])('has looked up %s', (_, messages, looked) => {
    const { documents, toStore, isShort } = planChat(messages);
    expect(documents.map(({ document, instructions }) => [document, instructions])).toEqual(
      looked.map(([document, instructions]) => [document, instructions]),
    );
    expect(toStore).toBe(documents[0]);
    expect(isShort).toBe(true);
  });

  it('stores the long one of two texts', () => {
    const { documents, toStore, isShort } = planChat([system('s'), user(long), user('q')]);
    expect(documents.map(({ document }) => document)).toEqual([long]);
    expect(toStore).toBe(documents[0]);
    expect(isShort).toBe(false);
    const two = planChat([system('s'), user(long), assistant('a'), user('q')]);
    expect([two.documents[0]?.document, two.toStore?.document]).toEqual(['s', long]);
  });

  it.each<[string, readonly ChatMessage[], string]>([
    ['nothing but instructions', [system('s')], 'messages'],
    ['nothing but a long system message', [system(long)], 'messages'],
    ['an assistant first', [assistant(long), user('q')], 'messages.0.role'],
    ['two short user messages', [user('q'), user('r')], 'messages.1.role'],
    ['a system message behind a document', [user(long), system('s'), user('q')], 'messages.1.role'],
    [
      'a second system message',
      [system('s'), user('q'), system('t'), user('r')],
      'messages.2.role',
    ],
    ['an assistant at the end', [user(long), user('q'), assistant('a')], 'messages.2.role'],
    [
      'a blank turn below a document',
      [user(long), assistant(' '), user('q')],
      'messages.1.content',
    ],
    ['a blank turn', [system('s'), user(' ')], 'messages.1.content'],
    [
      'two assistants behind a document and instructions',
      [system('s'), user(long), assistant('a'), assistant('b'), user('q')],
      'messages.3.role',
    ],
  ])('refuses %s', (_, messages, path) => {
    expect(() => planChat(messages).unstored()).toThrow(
      expect.objectContaining({
        code: 'invalid_argument',
        details: { path },
        message: expect.stringMatching(/^Expected .+ but got /) as string,
      }),
    );
  });
});

describe('a conversation', () => {
  it('has its contents trimmed', () => {
    expect(conversationTurns([user(' q\n'), assistant('\ta'), user('r ')])).toEqual([
      user('q'),
      assistant('a'),
      user('r'),
    ]);
  });

  it('says where instructions belong when it gets a system message', () => {
    expect(() => conversationTurns([system('s'), user('q')])).toThrow(/belong to the context/);
  });

  it('is either a query or messages', () => {
    expect(questionTurns({ query: ' q ' })).toEqual([user('q')]);
    expect(questionTurns({ messages: [user('q')] })).toEqual([user('q')]);
    const refusal = (path: string) =>
      expect.objectContaining({ code: 'invalid_argument', details: { path } }) as Error;
    expect(() => questionTurns({ query: 'q', messages: [user('q')] })).toThrow(refusal('messages'));
    expect(() => questionTurns({})).toThrow(refusal('query'));
    expect(() => questionTurns({ messages: [] })).toThrow(refusal('messages'));
  });
});
