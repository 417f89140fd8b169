import { z } from '@hono/zod-openapi';
import { defaultSampling, seedEnd } from '../../service/queries.ts';
import { maxMessages } from '../../service/turns.ts';
import { flag, fraction, integer, number, text, usedKeepRatio, word } from './fields.ts';

/** Longer than any model's window, which is the bound that counts (`context_too_long`). */
export const maxAnswerTokens = 2 ** 20;
/** Most stop texts of a query. */
export const maxStops = 16;
/** Characters of a stop text. */
export const maxStopLength = 256;
const maxTopK = 2 ** 31 - 1;

/** A question, as a schema that may be optional. */
const question = () =>
  text({ min: 1 }).openapi({
    description: 'The question; white space at both ends is dropped.',
    example: 'Who signed the lease?',
  });

const message = z.strictObject(
  {
    // A system message gets as far as the service, which says where instructions belong.
    role: z
      .enum(['user', 'assistant', 'system'], { error: '"user" or "assistant"' })
      .openapi({ enum: ['user', 'assistant'] }),
    content: text({ min: 1 }),
  },
  { error: 'an object with role and content' },
);

const expectedMessages = `an array of 1 to ${maxMessages} messages`;
const messages = z
  .array(message, { error: expectedMessages })
  .min(1, { error: expectedMessages })
  .max(maxMessages, { error: expectedMessages })
  .openapi({
    description:
      'Several turns, instead of `query`: user and assistant in turn, a user first and last. All ' +
      'of them are computed for this query; a session keeps them instead.',
    example: [
      { role: 'user', content: 'Who signed the lease?' },
      { role: 'assistant', content: 'Ada Lovelace.' },
      { role: 'user', content: 'When?' },
    ],
  });

const answering = {
  maxTokens: integer(1, maxAnswerTokens).optional().openapi({
    description: 'Most tokens of the answer.',
    default: defaultSampling.maxTokens,
  }),
  temperature: number(0, 2).optional().openapi({
    description: '0 is greedy: the likeliest token each time.',
    default: defaultSampling.temperature,
  }),
  topP: fraction().optional().openapi({
    description: 'Draw from the likeliest tokens that together have this probability.',
    default: defaultSampling.topP,
  }),
  topK: integer(0, maxTopK).optional().openapi({
    description: 'Draw from this many likeliest tokens; 0: from all.',
    default: defaultSampling.topK,
  }),
  seed: integer(0, seedEnd - 1)
    .optional()
    .openapi({
      description: 'The same seed draws the same answer; left out: a random one.',
    }),
  stop: z
    .array(text({ min: 1, max: maxStopLength }), {
      error: `an array of up to ${maxStops} texts`,
    })
    .max(maxStops, { error: `an array of up to ${maxStops} texts` })
    .optional()
    .openapi({ description: 'The answer ends before any of these.', example: ['\n\n'] }),
  stream: flag()
    .optional()
    .openapi({ description: 'Answer with server-sent events.', default: false }),
};

/** The JSON body of a query. Whether it fits the model's window is the engine's to check. */
export const queryBody = z
  .strictObject(
    {
      query: question().optional(),
      messages: messages.optional(),
      ...answering,
      keepRatio: usedKeepRatio(),
    },
    { error: 'a JSON object' },
  )
  .openapi('Query', { description: 'Either `query` or `messages` is required.' });

/** The JSON body of a session's query: the session knows the earlier turns and its keepRatio. */
export const sessionQueryBody = z
  .strictObject({ query: question(), ...answering }, { error: 'a JSON object' })
  .openapi('SessionQuery');

const count = () => z.number().int().min(0);
const durationMs = () => z.number().min(0);

/** A whole answer, also the data of a stream's `done` event; describes `Answer`. */
export const answerSchema = z
  .object({
    id: z.string().openapi({ example: 'ans_5d1c0b9e8f7a6d5c4b3a291807f6e5d4' }),
    object: word('answer'),
    contextId: z.string(),
    answer: z.string().openapi({ example: 'Ada Lovelace signed the lease.' }),
    finishReason: z.enum(['stop', 'length', 'cancelled']),
    usage: z.object({
      contextTokens: count(),
      queryTokens: count().openapi({ description: 'The question with the template around it.' }),
      completionTokens: count().openapi({ description: 'Without the end token.' }),
      prefilledTokens: count().openapi({
        description: "Tokens whose KV pairs were computed for this request: never the document's.",
      }),
    }),
    cache: z.object({
      source: z.enum(['device', 'host', 'disk']).openapi({ description: 'Where it was found.' }),
      keepRatio: z.number(),
      pairs: count(),
      bytes: count(),
    }),
    timings: z
      .object({
        queueMs: durationMs(),
        loadMs: durationMs(),
        firstTokenMs: durationMs(),
        totalMs: durationMs(),
        tokensPerSecond: z.number().min(0),
      })
      .openapi({ description: "Counted from the request's arrival." }),
  })
  .openapi('Answer');

/** An answer of a session; describes `SessionAnswer`. */
export const sessionAnswerSchema = answerSchema
  .extend({ sessionId: z.string().openapi({ example: 'ses_0b1c2d3e4f5061728394a5b6c7d8e9f0' }) })
  .openapi('SessionAnswer');

/** The answer to a question: its object, or server-sent events. */
export function answerResponses<S extends z.ZodType>(schema: S) {
  return {
    200: {
      description: 'The answer.',
      content: { 'application/json': { schema }, 'text/event-stream': { schema: z.string() } },
    },
  };
}
