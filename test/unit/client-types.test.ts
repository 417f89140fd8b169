import type { z } from '@hono/zod-openapi';
import { expectTypeOf, it } from 'vitest';
import type {
  Answer,
  Context,
  ContextChange,
  ContextList,
  PutRequest,
  QueryRequest,
  Session,
  SessionAnswer,
  SessionQueryRequest,
  SessionRequest,
} from '../../src/client/types.ts';
import type {
  contextListSchema,
  contextSchema,
  patchContextBody,
  putContextBody,
} from '../../src/http/schemas/context.ts';
import type {
  answerSchema,
  queryBody,
  sessionAnswerSchema,
  sessionQueryBody,
} from '../../src/http/schemas/query.ts';
import type { openSessionBody, sessionSchema } from '../../src/http/schemas/session.ts';

/** All keys, however deep, as texts like `size.pairsKept`. */
type Paths<T> = T extends readonly unknown[]
  ? never
  : T extends object
    ? { [K in keyof T & string]: K | `${K}.${Paths<NonNullable<T[K]>>}` }[keyof T & string]
    : never;

// The compiler checks these (npm run check:types); at run time there is nothing to compare.
it('the client reads what the server answers', () => {
  expectTypeOf<z.infer<typeof contextSchema>>().toExtend<Context>();
  expectTypeOf<z.infer<typeof contextListSchema>>().toExtend<ContextList>();
  expectTypeOf<z.infer<typeof answerSchema>>().toExtend<Answer>();
  expectTypeOf<z.infer<typeof sessionSchema>>().toExtend<Session>();
  expectTypeOf<z.infer<typeof sessionAnswerSchema>>().toExtend<SessionAnswer>();
  expectTypeOf<Paths<Session>>().toEqualTypeOf<Paths<z.infer<typeof sessionSchema>>>();
  expectTypeOf<Paths<SessionAnswer>>().toEqualTypeOf<Paths<z.infer<typeof sessionAnswerSchema>>>();
  expectTypeOf<Paths<Context>>().toEqualTypeOf<Paths<z.infer<typeof contextSchema>>>();
  expectTypeOf<Paths<Answer>>().toEqualTypeOf<Paths<z.infer<typeof answerSchema>>>();
});

it('the client can say no field that the server does not know', () => {
  expectTypeOf<keyof PutRequest>().toExtend<keyof z.input<typeof putContextBody>>();
  expectTypeOf<keyof ContextChange>().toExtend<keyof z.input<typeof patchContextBody>>();
  expectTypeOf<keyof SessionRequest>().toExtend<keyof z.input<typeof openSessionBody>>();
  expectTypeOf<keyof SessionQueryRequest>().toExtend<keyof z.input<typeof sessionQueryBody>>();
  expectTypeOf<keyof QueryRequest>().toExtend<keyof z.input<typeof queryBody>>();
});
