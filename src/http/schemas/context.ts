import { z } from '@hono/zod-openapi';
import { budgetNames, precisionNames } from '../../service/compression.ts';
import { flag, fraction, integer, integerParameter, text, word } from './fields.ts';

const maxTtlSeconds = 10 * 365 * 24 * 3600;
const maxLabels = 16;
const maxPageSize = 100;
const maxCursorLength = 1024;
/** Longer than any name there is. */
const maxNameLength = 64;
/** Above what any model has. */
const maxHeads = 65_536;

const exampleId = 'ctx_0f3a5c7e9b1d2f4a6c8e0b3d5f7a9c1e3b5d7f90';
const sha256Example = '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08';

const name = () => text({ min: 1, max: maxNameLength });

/** Names, as a description lists them. */
const quoted = (names: readonly string[]) => names.map((each) => JSON.stringify(each)).join(', ');

const keepRatio = () =>
  z.union([fraction(), z.literal('auto')], { error: 'a number above 0 and at most 1, or "auto"' });

const compression = z
  .strictObject(
    {
      method: name().optional().openapi({
        description: 'How pairs are ranked; GET /methods lists what there is. "none" keeps all.',
        example: 'kvzip',
      }),
      keepRatio: keepRatio().optional().openapi({
        description: 'Fraction of the document\'s KV pairs kept; "auto" is not built yet.',
        example: 0.3,
      }),
      budget: name()
        .optional()
        .openapi({
          description: `How pairs are chosen across layers and heads: ${quoted(budgetNames)}.`,
          example: 'global',
        }),
      precision: name()
        .optional()
        .openapi({
          description: `Stored element type: ${quoted(precisionNames)}.`,
          example: 'f16',
        }),
    },
    { error: 'an object' },
  )
  .openapi({ description: 'What is left out comes from the configuration.' });

const labels = z
  .record(text({ min: 1, max: 64 }), text({ min: 0, max: 256 }), {
    error: 'an object of short texts',
  })
  .refine((value) => Object.keys(value).length <= maxLabels, {
    error: `at most ${maxLabels} labels`,
  })
  .openapi({
    description: `Up to ${maxLabels} labels: keys of 1 to 64 characters, values of up to 256.`,
    example: { source: 'handbook' },
  });

const usage = {
  ttlSeconds: integer(1, maxTtlSeconds)
    .nullable()
    .optional()
    .openapi({
      description:
        'Seconds until the context expires, counted from now, or from when it is stored, if that ' +
        'is later; null: never.',
      example: 86_400,
    }),
  pinned: flag()
    .optional()
    .openapi({ description: 'A pinned context is never removed to make room.', example: false }),
  labels: labels.optional(),
};

/** The JSON body of a PUT. Names are free here: the service knows what is built. */
export const putContextBody = z
  .strictObject(
    {
      document: text({ min: 1 }).openapi({
        description: 'The text to read; white space at both ends is dropped.',
        example: 'The lease was signed by Ada Lovelace on 3 May 1842.',
      }),
      instructions: text({ min: 0 })
        .optional()
        .openapi({
          description:
            "System text in place of the template's: part of the context, never evicted. " +
            'Empty text is as good as none.',
        }),
      compression: compression.optional(),
      ...usage,
    },
    { error: 'a JSON object' },
  )
  .openapi('PutContext');

/** `Prefer` (RFC 7240); what it does not know is ignored. */
export const putContextHeaders = z.object({
  prefer: z
    .string()
    .optional()
    .openapi({
      param: { description: 'respond-async: answer 202 as soon as the id is known.' },
      example: 'respond-async',
    }),
});

/** The options of a PUT whose body is the document itself. */
export const putContextParameters = z.strictObject({
  method: compression.shape.method,
  keepRatio: z
    .string()
    .transform((value) => (/^\d+(\.\d+)?$/.test(value) ? Number(value) : value))
    .pipe(keepRatio())
    .optional()
    .openapi({
      param: { description: 'As compression.keepRatio.' },
      type: 'string',
      example: '0.3',
    }),
  budget: compression.shape.budget,
  precision: compression.shape.precision,
  instructions: text({ min: 0 }).optional(),
  ttlSeconds: z
    .string()
    .transform((value) => {
      if (value === 'null') return null;
      return /^\d{1,16}$/.test(value) ? Number(value) : value;
    })
    .pipe(integer(1, maxTtlSeconds).nullable())
    .optional()
    .openapi({ param: { description: 'As ttlSeconds; "null": never.' }, type: 'string' }),
  pinned: z
    .enum(['true', 'false'], { error: 'true or false' })
    .transform((value) => value === 'true')
    .optional(),
});

/** The JSON body of a PATCH. What is left out stays as it is; `labels` are replaced whole. */
export const patchContextBody = z
  .strictObject(usage, { error: 'a JSON object' })
  .openapi('PatchContext', { description: 'What is given replaces what is stored.' });

/** Any text is taken for an id: a malformed one is as unknown as others (`not_found`). */
export const contextParameters = z.object({
  id: z.string().openapi({
    param: { description: 'The id of a context.' },
    example: exampleId,
  }),
});

/** Pages are 1 to 100 contexts; a larger one would hold up other requests. */
export const listParameters = z.strictObject({
  limit: integerParameter(1, maxPageSize)
    .optional()
    .openapi({ param: { description: `Page size, 1 to ${maxPageSize}; 20.` }, type: 'integer' }),
  cursor: text({ min: 1, max: maxCursorLength })
    .optional()
    .openapi({ param: { description: '`nextCursor` of the page before.' } }),
  label: text({ min: 1, max: 512 })
    .refine((value) => value.indexOf(':') > 0, { error: 'key:value' })
    .optional()
    .openapi({
      param: { description: 'Only contexts with this label.' },
      example: 'source:handbook',
    }),
});

/** Both or neither; the service knows the model's layers and heads and refuses others. */
export const importanceParameters = z.strictObject({
  layer: integerParameter(0, maxHeads)
    .optional()
    .openapi({ param: { description: 'Together with head.' }, type: 'integer' }),
  head: integerParameter(0, maxHeads)
    .optional()
    .openapi({ param: { description: 'KV head of the layer.' }, type: 'integer' }),
});

const count = () => z.number().int().min(0);
const durationMs = () => z.number().min(0);
const timestamp = () =>
  z.string().openapi({ format: 'date-time', example: '2030-01-02T03:04:05.678Z' });

/** A context in every response that has one; describes `ContextView`. */
export const contextSchema = z
  .object({
    id: z.string().openapi({ example: exampleId }),
    object: word('context'),
    status: z.enum(['ingesting', 'ready', 'failed']),
    reused: z.boolean().openapi({ description: 'True: the model did not run for this request.' }),
    model: z.object({
      id: z.string().openapi({ example: 'reader' }),
      fingerprint: z.string().openapi({ example: `sha256:${sha256Example}` }),
    }),
    document: z.object({
      bytes: count().openapi({ description: 'Of the trimmed text in UTF-8.', example: 5123 }),
      tokens: count().openapi({ example: 1204 }),
      sha256: z.string().openapi({
        description: 'Of the trimmed text in UTF-8.',
        example: sha256Example,
      }),
    }),
    compression: z.object({
      method: z.string().openapi({ example: 'kvzip' }),
      keepRatio: z.number().openapi({ example: 0.3 }),
      budget: z.string().openapi({ example: 'global' }),
      precision: z.string().openapi({ example: 'f16' }),
      fidelity: z
        .object({ agreement: z.number(), nllFull: z.number(), nllCompact: z.number() })
        .nullable()
        .openapi({ description: 'Teacher-forced fidelity, if it was measured.' }),
    }),
    size: z
      .object({
        pairsTotal: count().openapi({
          description: 'KV pairs of all layers and KV heads, protected ones included.',
          example: 110_520,
        }),
        pairsKept: count().openapi({ example: 34_668 }),
        fullBytes: count().openapi({
          description: 'The uncompressed f16 cache of the same tokens.',
          example: 28_293_120,
        }),
        storedBytes: count().openapi({
          description: 'Keys, values and quantisation parameters kept.',
          example: 8_875_008,
        }),
        diskBytes: count().openapi({ description: 'Everything stored.', example: 9_051_136 }),
        compressionFactor: z.number().openapi({
          description: 'fullBytes / storedBytes, to two decimals.',
          example: 3.19,
        }),
      })
      .openapi({ description: 'Zero until the context is ready.' }),
    timings: z
      .object({
        prefillMs: durationMs(),
        scoreMs: durationMs(),
        persistMs: durationMs(),
        totalMs: durationMs(),
      })
      .openapi({ description: "Of the ingestion; prefillMs and scoreMs are the model's time." }),
    createdAt: timestamp(),
    lastUsedAt: timestamp(),
    expiresAt: timestamp()
      .nullable()
      .openapi({
        description:
          'null: never. A ttlSeconds counts from when the context is stored; until then it is ' +
          'shown as if it counted from the request.',
      }),
    pinned: z.boolean(),
    labels: z.record(z.string(), z.string()),
  })
  .openapi('Context', { description: 'A document that was read once.' });

/** A page of contexts, newest first. */
export const contextListSchema = z
  .object({
    object: word('list'),
    data: z.array(contextSchema),
    nextCursor: z.string().nullable().openapi({ description: 'null on the last page.' }),
  })
  .openapi('ContextList');

/** What a context kept, for a heat map: counts of all heads, and one head in full. */
export const importanceSchema = z
  .object({
    object: word('importance'),
    contextId: z.string().openapi({ example: exampleId }),
    documentTokens: count(),
    prefixTokens: count().openapi({
      description: 'Protected tokens before the document: kept by every head, not counted here.',
    }),
    layers: count(),
    kvHeads: count(),
    keptCounts: z
      .array(z.array(count()))
      .openapi({ description: 'Document pairs kept, by layer and KV head.' }),
    head: z
      .object({
        layer: count(),
        head: count(),
        positions: z
          .array(count())
          .openapi({ description: 'Document token indices, most important first.' }),
        scores: z.array(z.number()).openapi({ description: 'The score of each position.' }),
      })
      .nullable()
      .openapi({ description: 'The head that was asked for.' }),
  })
  .openapi('Importance', { description: 'What a context kept.' });
