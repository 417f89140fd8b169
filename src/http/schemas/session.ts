import { z } from '@hono/zod-openapi';
import { defaultSessionTtlSeconds } from '../../service/sessions.ts';
import { integer, usedKeepRatio, word } from './fields.ts';

/** A day: longer pauses are not worth the memory, since `messages` does the same without. */
const maxSessionTtlSeconds = 86_400;

/** The JSON body that opens a session; there may be none. */
export const openSessionBody = z
  .strictObject(
    {
      keepRatio: usedKeepRatio(),
      ttlSeconds: integer(1, maxSessionTtlSeconds).optional().openapi({
        description: 'The session ends when it was not used for so long.',
        default: defaultSessionTtlSeconds,
      }),
    },
    { error: 'a JSON object' },
  )
  .openapi('OpenSession');

const exampleSessionId = 'ses_0b1c2d3e4f5061728394a5b6c7d8e9f0';

/** Any text is taken for an id: a malformed one is as unknown as others (`not_found`). */
export const sessionParameters = z.object({
  id: z.string().openapi({
    param: { description: 'The id of a session.' },
    example: exampleSessionId,
  }),
});

const timestamp = () =>
  z.string().openapi({ format: 'date-time', example: '2030-01-02T03:04:05.678Z' });

/** A session in every response that has one; describes `SessionView`. */
export const sessionSchema = z
  .object({
    id: z.string().openapi({ example: exampleSessionId }),
    object: word('session'),
    contextId: z.string(),
    keepRatio: z.number(),
    turns: z.number().int().min(0).openapi({ description: 'Questions answered.' }),
    tokens: z.number().int().min(0).openapi({ description: 'Tokens held behind the context.' }),
    createdAt: timestamp(),
    lastUsedAt: timestamp(),
    expiresAt: timestamp(),
  })
  .openapi('Session', {
    description: "A conversation with a context, held in the engine's memory between turns.",
  });
