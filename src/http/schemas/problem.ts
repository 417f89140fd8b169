import { z } from '@hono/zod-openapi';
import { errorTable, type ErrorCode } from '../../core/errors.ts';

/** The media type of every error (RFC 9457). */
export const problemMediaType = 'application/problem+json';

const codes: readonly string[] = Object.keys(errorTable);

/** The body of every error; `errors` lists fields, if the error is about some. */
export const problemSchema = z
  .object({
    type: z.string().openapi({ description: 'A URN that names the code.' }),
    title: z.string().openapi({ description: 'The code in words.' }),
    status: z.number().int().openapi({ description: 'The HTTP status.' }),
    detail: z.string().openapi({ description: 'What was expected, what came, what to do.' }),
    instance: z.string().openapi({ description: 'The path of the request.' }),
    code: z.enum(codes).openapi({ description: 'Stable; docs/errors.md explains each.' }),
    requestId: z.string().openapi({ description: 'As in the header X-Request-Id and the log.' }),
    errors: z
      .array(z.object({ path: z.string(), message: z.string() }))
      .optional()
      .openapi({ description: 'The fields that were refused.' }),
  })
  .openapi('Problem', {
    description: 'An error, as RFC 9457 has it.',
    example: {
      type: 'urn:readonce:error:invalid_argument',
      title: 'Invalid argument',
      status: 400,
      detail: 'Expected a number above 0 and at most 1 for compression.keepRatio but got 2.',
      instance: '/contexts',
      code: 'invalid_argument',
      requestId: 'req_4f0c2d6e8a1b4c3d9e5f60718293a4b5',
      errors: [
        {
          path: 'compression.keepRatio',
          message: 'Expected a number above 0 and at most 1 for compression.keepRatio but got 2.',
        },
      ],
    },
  });

/** See `problemSchema`. */
export type Problem = z.infer<typeof problemSchema>;

/** What any route may answer but `GET /healthz`: middleware refuses, or something is broken. */
const commonCodes = [
  'invalid_argument',
  'unauthenticated',
  'internal',
  'deadline_exceeded',
] as const;

/** What any route may answer that is asked a question. */
export const questionCodes = [
  'invalid_argument',
  'not_found',
  'identity_mismatch',
  'payload_too_large',
  'unsupported_media_type',
  'unsupported',
  'context_too_long',
  'corrupt_record',
  'engine_unavailable',
  'rate_limited',
  'overloaded',
  'out_of_memory',
] as const satisfies readonly ErrorCode[];

/** Codes that always come with `Retry-After`, and its seconds where the error names none. */
export const usualRetryAfterSeconds: ReadonlyMap<ErrorCode, number> = new Map([
  ['quota_exceeded', 60],
  ['rate_limited', 2],
  ['overloaded', 2],
  ['engine_unavailable', 2],
]);

/** The error responses of a route, one for each status its codes have. */
export function problems(...errorCodes: readonly ErrorCode[]) {
  return responsesByStatus(errorCodes, {
    [problemMediaType]: { schema: problemSchema },
  });
}

/** A response for each status that some codes have, `internal` among them. */
export function responsesByStatus<T>(errorCodes: readonly ErrorCode[], content: T) {
  const byStatus = new Map<number, ErrorCode[]>();
  for (const code of new Set([...errorCodes, ...commonCodes])) {
    const { status } = errorTable[code];
    byStatus.set(status, [...(byStatus.get(status) ?? []), code]);
  }
  return Object.fromEntries(
    [...byStatus].map(([status, group]) => [
      status,
      {
        description: group.map((code) => `\`${code}\``).join(', '),
        content,
        headers: errorHeaders(group),
      },
    ]),
  );
}

/** The headers that errors of some codes may have, as OpenAPI declares them. */
function errorHeaders(group: readonly ErrorCode[]) {
  const mayComeBack = group.some((code) => code === 'conflict' || usualRetryAfterSeconds.has(code));
  const retryAfter = {
    description: 'After how many seconds to try again.',
    schema: { type: 'integer', minimum: 0 },
  } as const;
  const authenticate = {
    description: 'How to authenticate: by a key.',
    schema: { type: 'string', enum: ['Bearer'] },
  } as const;
  return {
    ...(mayComeBack ? { 'Retry-After': retryAfter } : {}),
    ...(group.includes('unauthenticated') ? { 'WWW-Authenticate': authenticate } : {}),
  };
}
