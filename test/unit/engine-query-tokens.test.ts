import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { concatenate } from '../../src/core/concatenate.ts';
import type { ChatMessage } from '../../src/engine/protocol.ts';
import { encodeFollowUp, encodePrompt, encodeTurns } from '../../src/engine/query-tokens.ts';
import type { Checkpoint } from '../../src/model/checkpoint.ts';
import { randomCheckpoint, type RandomCheckpoint } from '../support/random-checkpoint.ts';

let random: RandomCheckpoint;
let checkpoint: Checkpoint;

beforeAll(async () => {
  random = await randomCheckpoint();
  checkpoint = random.checkpoint;
});
afterAll(() => random.remove());

const question: readonly ChatMessage[] = [{ role: 'user', content: 'Who signed it?' }];
const conversation: readonly ChatMessage[] = [
  ...question,
  { role: 'assistant', content: 'Ada.' },
  { role: 'user', content: 'When?' },
];
const [contextTokens, maxTokens] = [100, 20];
const document = 'The lease was signed by Ada Lovelace.';

/** The checkpoint with a tokenizer that counts what it encodes, in characters. */
function counting() {
  const counted = { characters: 0 };
  const { tokenizer, template } = checkpoint;
  const spy: Checkpoint = {
    ...checkpoint,
    template: {
      ...template,
      turnIds: () => expect.unreachable('expected no turns to be tokenised'),
      chatIds: () => expect.unreachable('expected no chat to be tokenised'),
    },
    tokenizer: {
      encode: (text) => {
        counted.characters += text.length;
        return tokenizer.encode(text);
      },
      decode: (ids) => tokenizer.decode(ids),
      tokenBytes: (id) => tokenizer.tokenBytes(id),
      longestTokenBytes: tokenizer.longestTokenBytes,
    },
  };
  return { counted, checkpoint: spy };
}

describe('turns', () => {
  it.each([
    ['one question', question],
    ['a conversation', conversation],
  ])('of %s are what the template says', (_, turns) => {
    expect(encodeTurns(checkpoint, { contextTokens, turns, maxTokens })).toEqual(
      checkpoint.template.turnIds(turns),
    );
  });

  it('may fill the window to the last token, and not one more', () => {
    const { contextLength } = checkpoint.config;
    const tokens = checkpoint.template.turnIds(conversation).length;
    const context = contextLength - tokens - maxTokens;
    const encode = (held: number) =>
      encodeTurns(checkpoint, { contextTokens: held, turns: conversation, maxTokens });
    expect(encode(context)).toHaveLength(tokens);
    expect(() => encode(context + 1)).toThrow(
      expect.objectContaining({
        code: 'context_too_long',
        message: expect.stringContaining(`${context + 1} + ${tokens} + ${maxTokens}`) as string,
        details: {
          contextTokens: context + 1,
          queryTokens: tokens,
          maxTokens,
          window: contextLength,
        },
      }),
    );
  });

  it('that cannot fit together are refused before all of them are tokenised', () => {
    const long = 'the lease '.repeat(10_000);
    const turns = conversation.map((turn) => ({ ...turn, content: long }));
    const { counted, checkpoint: spy } = counting();
    expect(() => encodeTurns(spy, { contextTokens, turns, maxTokens })).toThrow(
      expect.objectContaining({
        code: 'context_too_long',
        message: expect.stringMatching(/\+ at least \d+ \+/) as string,
      }),
    );
    expect(counted.characters).toBeLessThan(10 * checkpoint.config.contextLength);
  });

  it.each([1023, 1024, 5000])('are refused where %d tokens leave them no room', (held) => {
    expect(() =>
      encodeTurns(checkpoint, { contextTokens: held, turns: question, maxTokens }),
    ).toThrow(expect.objectContaining({ code: 'context_too_long' }));
  });
});

describe('a follow-up', () => {
  it('is what the template says, and must fit', () => {
    const ids = checkpoint.template.followUpIds('When?');
    const encode = (held: number) =>
      encodeFollowUp(checkpoint, { contextTokens: held, turn: 'When?', maxTokens });
    expect(encode(contextTokens)).toEqual(ids);
    const room = checkpoint.config.contextLength - maxTokens - ids.length;
    expect(encode(room)).toEqual(ids);
    expect(() => encode(room + 1)).toThrow(expect.objectContaining({ code: 'context_too_long' }));
  });
});

describe('a prompt', () => {
  it('with a document has the tokens of its context and of the turns', () => {
    const { template, tokenizer } = checkpoint;
    const request = { document, instructions: 'Be brief.', turns: conversation, maxTokens };
    const documentIds = tokenizer.encode(document);
    expect(encodePrompt(checkpoint, request)).toEqual({
      ids: concatenate(
        template.prefixIds('Be brief.'),
        documentIds,
        template.turnIds(conversation),
      ),
      documentTokens: documentIds.length,
    });
  });

  it('without a document is an ordinary chat', () => {
    const { template } = checkpoint;
    const chat = { document: undefined, turns: conversation, maxTokens };
    const system = { role: 'system', content: 'Be brief.' } as const;
    expect(encodePrompt(checkpoint, { ...chat, instructions: 'Be brief.' })).toEqual({
      ids: template.chatIds([system, ...conversation]),
      documentTokens: 0,
    });
    expect(encodePrompt(checkpoint, { ...chat, instructions: undefined }).ids).toEqual(
      template.chatIds(conversation),
    );
  });

  it.each(['document', 'instructions'])('with a hopeless %s is refused untokenised', (field) => {
    const { counted, checkpoint: spy } = counting();
    const request = { document, instructions: 'Be brief.', turns: question, maxTokens };
    const long = { ...request, [field]: 'the lease '.repeat(10_000) };
    expect(() => encodePrompt(spy, long)).toThrow(
      expect.objectContaining({ code: 'context_too_long' }),
    );
    expect(counted.characters).toBeLessThan(10 * checkpoint.config.contextLength);
  });
});
