import { z } from '@hono/zod-openapi';
import type { ErrorCode } from '../../core/errors.ts';
import { defaultSampling } from '../../service/queries.ts';
import { maxMessages } from '../../service/turns.ts';
import { flag, integer, number, text, word } from './fields.ts';
import { problemMediaType, problemSchema, responsesByStatus } from './problem.ts';
import { maxAnswerTokens, maxStopLength, maxStops } from './query.ts';

/*
 * The chat completions of OpenAI's interface, snake_case and null as good as nothing. Fields that
 * its clients send and that change nothing here are taken and ignored; those that would change the
 * answer and are not built are refused.
 */

const maxParts = 64;
/** Longest id of a model or context that is looked at. */
const maxIdLength = 256;
const maxMetadata = 16;

const part = z.strictObject(
  { type: word('text'), text: text({ min: 0 }) },
  { error: 'a part of type "text"' },
);

const content = z.union([text({ min: 0 }), z.array(part).min(1).max(maxParts)], {
  error: `text, or an array of 1 to ${maxParts} parts of type "text"`,
});

/** Taken as long as it says nothing. */
const none = (error: string) => z.array(z.unknown(), { error }).max(0, { error }).nullable();

const message = z.strictObject(
  {
    role: z
      .enum(['system', 'developer', 'user', 'assistant'], {
        error: '"system", "developer", "user" or "assistant"',
      })
      .openapi({ description: '"developer" is another word for "system".' }),
    content: content.openapi({ description: 'Text, or parts, which are joined by line ends.' }),
    name: z.string().nullish().openapi({ description: 'Ignored.' }),
    // What an assistant's message of a response has beside its content, sent back as it came.
    refusal: z.null({ error: 'null' }).optional(),
    annotations: z.array(z.unknown()).nullish(),
    audio: z.null({ error: 'null' }).optional(),
    function_call: z.null({ error: 'null (tools are not built)' }).optional(),
    tool_calls: none('no tool calls (tools are not built)').optional(),
  },
  { error: 'an object with role and content' },
);

const zero = (what: string) =>
  z.literal(0, { error: `0 or nothing (${what} is not built)` }).nullish();
const ignoredText = () =>
  z.string({ error: 'text' }).nullish().openapi({ description: 'Ignored.' });
const expectedMessages = `an array of 1 to ${maxMessages} messages`;
const expectedStop = `text, or an array of up to ${maxStops} texts`;

const sampling = {
  temperature: number(0, 2).nullish().openapi({
    description: '0 is greedy: the likeliest token each time.',
    default: defaultSampling.temperature,
  }),
  top_p: number(0, 1).nullish().openapi({ default: defaultSampling.topP }),
  max_tokens: integer(1, maxAnswerTokens).nullish().openapi({
    description: 'As max_completion_tokens, which goes before it.',
  }),
  max_completion_tokens: integer(1, maxAnswerTokens)
    .nullish()
    .openapi({ description: 'Most tokens of the answer.', default: defaultSampling.maxTokens }),
  seed: z
    .int({ error: 'a whole number' })
    .nullish()
    .openapi({ description: 'The same seed draws the same answer; left out: a random one.' }),
  stop: z
    .union(
      [
        text({ min: 1, max: maxStopLength }),
        z.array(text({ min: 1, max: maxStopLength })).max(maxStops),
      ],
      { error: expectedStop },
    )
    .nullish()
    .openapi({ description: 'The answer ends before any of these.' }),
};

const ignored = {
  user: ignoredText(),
  safety_identifier: ignoredText(),
  prompt_cache_key: ignoredText(),
  prompt_cache_retention: ignoredText(),
  service_tier: ignoredText(),
  metadata: z
    .record(z.string(), z.string(), { error: `an object of up to ${maxMetadata} texts` })
    .refine((value) => Object.keys(value).length <= maxMetadata, {
      error: `an object of up to ${maxMetadata} texts`,
    })
    .nullish()
    .openapi({ description: 'Ignored.' }),
  parallel_tool_calls: flag().nullish().openapi({ description: 'Ignored.' }),
  modalities: z.array(word('text'), { error: '["text"]' }).max(1, { error: '["text"]' }).nullish(),
};

const notBuilt = {
  n: z.literal(1, { error: '1 or nothing (several choices are not built)' }).nullish(),
  frequency_penalty: zero('a penalty'),
  presence_penalty: zero('a penalty'),
  logprobs: z
    .literal(false, { error: 'false or nothing (log probabilities are not built)' })
    .nullish(),
  top_logprobs: zero('a list of log probabilities'),
  logit_bias: z.strictObject({}, { error: 'nothing (a bias is not built)' }).nullish(),
  response_format: z
    .strictObject({ type: word('text') }, { error: 'an object of type "text"' })
    .nullish(),
  tools: none('nothing (tools are not built)').optional(),
  functions: none('nothing (tools are not built)').optional(),
  tool_choice: z
    .enum(['none', 'auto'], { error: '"none" or "auto" (tools are not built)' })
    .nullish(),
};

/** The JSON body of a chat. Roles and their order are the service's to check. */
export const chatBody = z
  .strictObject(
    {
      model: text({ min: 1, max: maxIdLength }).openapi({
        description: 'The id of the served model; GET /v1/models lists it.',
        example: 'reader',
      }),
      messages: z
        .array(message, { error: expectedMessages })
        .min(1, { error: expectedMessages })
        .max(maxMessages, { error: expectedMessages })
        .openapi({
          description:
            'With a context, turns only: user and assistant in turn, a user first and last. ' +
            'Without one, the first message (or the user message behind a system message, which ' +
            'becomes the instructions) is looked up among the contexts, whatever their ' +
            'compression, if a question follows.',
        }),
      ...sampling,
      stream: flag().nullish(),
      stream_options: z
        .strictObject(
          { include_usage: flag().nullish(), include_obfuscation: flag().nullish() },
          { error: 'an object' },
        )
        .nullish(),
      context_id: text({ min: 1, max: maxIdLength }).nullish().openapi({
        description: 'The context to ask; the header X-Context-Id does the same.',
      }),
      store: flag().nullish().openapi({
        description: 'Put the document that the chat begins with, if it is not stored.',
      }),
      ...ignored,
      ...notBuilt,
    },
    { error: 'a JSON object' },
  )
  .openapi('ChatCompletionRequest');

/** A chat as `chatBody` lets it through. */
export type ChatBody = z.output<typeof chatBody>;

/** Names the context for clients that cannot add to the body. */
export const chatHeaders = z.object({
  'x-context-id': text({ min: 1, max: maxIdLength })
    .optional()
    .openapi({ param: { description: 'As `context_id`; both must be the same.' } }),
});

const count = () => z.number().int().min(0);
const finishReason = z.enum(['stop', 'length']);

const usage = z.object({
  prompt_tokens: count().openapi({ description: 'Of the context and the messages.' }),
  completion_tokens: count(),
  total_tokens: count(),
  prompt_tokens_details: z.object({
    cached_tokens: count().openapi({ description: "The context's: not computed again." }),
  }),
});

const contextId = () =>
  z.string().optional().openapi({ description: 'The context that was asked, if one was.' });

/** A whole completion. */
export const completionSchema = z
  .object({
    id: z.string().openapi({ example: 'chatcmpl-5d1c0b9e8f7a6d5c4b3a291807f6e5d4' }),
    object: word('chat.completion'),
    created: count().openapi({ description: 'Seconds since 1970.' }),
    model: z.string(),
    choices: z.array(
      z.object({
        index: z.literal(0),
        message: z.object({
          role: word('assistant'),
          content: z.string(),
          refusal: z.null(),
        }),
        logprobs: z.null(),
        finish_reason: finishReason,
      }),
    ),
    usage,
    context_id: contextId(),
  })
  .openapi('ChatCompletion');

/** The data of each event of a streamed completion; after the last comes `[DONE]`. */
export const chunkSchema = z
  .object({
    id: z.string(),
    object: word('chat.completion.chunk'),
    created: count(),
    model: z.string(),
    choices: z.array(
      z.object({
        index: z.literal(0),
        delta: z.object({
          role: word('assistant').optional(),
          content: z.string().optional(),
        }),
        logprobs: z.null(),
        finish_reason: finishReason.nullable(),
      }),
    ),
    usage: usage.nullish(),
    context_id: contextId(),
  })
  .openapi('ChatCompletionChunk');

const model = z
  .object({
    id: z.string().openapi({ example: 'reader' }),
    object: word('model'),
    created: count().openapi({ description: '0: models have no date.' }),
    owned_by: word('readonce'),
  })
  .openapi('OpenAiModel');

/** One served model. */
export const openAiModelSchema = model;

/** The served models. */
export const openAiModelListSchema = z
  .object({ object: word('list'), data: z.array(model) })
  .openapi('OpenAiModelList');

/** Any text is taken for an id: a malformed one is as unknown as others. */
export const modelParameters = z.object({
  id: z.string().openapi({ param: { description: 'The id of a model.' }, example: 'reader' }),
});

/** The body of every error below /v1: a problem, and the same as OpenAI's clients read it. */
export const openAiErrorSchema = z
  .object({
    ...problemSchema.shape,
    error: z.object({
      message: z.string().openapi({ description: 'What was expected, what came, what to do.' }),
      type: z.string().openapi({ example: 'invalid_request_error' }),
      param: z.string().nullable().openapi({ description: 'The field that was refused.' }),
      code: z.string().openapi({
        description: 'As of a problem (docs/errors.md), but `model_not_found` for a model.',
      }),
    }),
  })
  .openapi('OpenAiError');

/** See `openAiErrorSchema`. */
export type OpenAiError = z.infer<typeof openAiErrorSchema>;

/** The error responses of a route below /v1, one for each status its codes have. */
export function openAiErrors(...errorCodes: readonly ErrorCode[]) {
  return responsesByStatus(errorCodes, { [problemMediaType]: { schema: openAiErrorSchema } });
}
