import type { z } from '@hono/zod-openapi';
import { ReadonceError } from '../core/errors.ts';

/** Strings longer than this are described by their length, not quoted. */
const maxQuotedLength = 40;
/** Errors spelled out in a problem's detail; `errors` has all. */
const maxDetailErrors = 3;

interface FieldError {
  readonly path: string;
  readonly message: string;
}

/**
 * Makes an `invalid_argument` of what zod found. A schema's error text is the expectation alone ("a
 * whole number from 1 to 100"); the sentence around it, with the field and what was sent, is
 * written here.
 */
export function validationError(error: z.core.$ZodError, value: unknown): ReadonceError {
  const errors = error.issues.flatMap((issue) => fieldErrors(issue, value));
  const detail = errors.slice(0, maxDetailErrors).map(({ message }) => message);
  const more = errors.length - detail.length;
  if (more > 0) detail.push(`And ${more} more, see "errors".`);
  return new ReadonceError('invalid_argument', detail.join(' '), { details: { errors } });
}

/** The value, validated. @throws ReadonceError `invalid_argument` */
export function validate<T extends z.ZodType>(schema: T, value: unknown): z.output<T> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw validationError(result.error, value);
}

/** The hook of every route: refuses what its schemas refuse. */
export function validationHook(result: {
  readonly success: boolean;
  readonly error?: z.core.$ZodError;
  readonly data?: unknown;
}): void {
  if (result.error !== undefined) throw validationError(result.error, result.data);
}

function fieldErrors(issue: z.core.$ZodIssue, value: unknown): readonly FieldError[] {
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => {
      const path = join([...issue.path, key]);
      return { path, message: `Expected no field named ${quote(path)} but got one.` };
    });
  }
  const path = join(issue.path);
  const expected =
    issue.code === 'invalid_key' ? (issue.issues[0]?.message ?? issue.message) : issue.message;
  const name = path === '' ? 'the body' : path;
  if (issue.code === 'invalid_key') {
    const key = String(issue.path.at(-1));
    return [{ path, message: `Expected ${expected} for a key but got ${quote(key)}.` }];
  }
  const received = describe(at(value, issue.path));
  return [{ path, message: `Expected ${expected} for ${name} but got ${received}.` }];
}

function join(path: readonly PropertyKey[]): string {
  return path.map(String).join('.');
}

function at(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>(
    (inner, key) =>
      typeof inner === 'object' && inner !== null ? Reflect.get(inner, key) : undefined,
    value,
  );
}

function describe(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (typeof value === 'string') {
    return value.length > maxQuotedLength ? `text of ${value.length} characters` : quote(value);
  }
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  return value === null ? 'null' : 'an object';
}

/** JSON's escapes keep control characters and lone surrogates out of the message. */
function quote(text: string): string {
  return JSON.stringify(
    text.length > maxQuotedLength ? `${text.slice(0, maxQuotedLength)}…` : text,
  );
}
