import { z } from '@hono/zod-openapi';

/*
 * Building blocks of the schemas. The error text of a field is the expectation alone ("a whole
 * number from 1 to 100"); `validation.ts` writes the sentence around it.
 */

/** Text that can be stored and tokenised: no U+0000 and no half of a surrogate pair. */
export function text(limits: { readonly min: number; readonly max?: number }) {
  const length =
    limits.max === undefined ? 'text' : `text of ${limits.min} to ${limits.max} characters`;
  const expected = limits.min > 0 && limits.max === undefined ? 'text that is not empty' : length;
  const schema = z
    .string({ error: expected })
    .min(limits.min, { error: expected })
    .refine((value) => !value.includes('\0'), { error: `${expected} without U+0000` })
    .refine((value) => !/\p{Surrogate}/u.test(value), {
      error: `${expected} without lone surrogates`,
    });
  return limits.max === undefined ? schema : schema.max(limits.max, { error: expected });
}

/** Both ends included. */
export function integer(min: number, max: number) {
  const error = `a whole number from ${min} to ${max}`;
  return z.int({ error }).min(min, { error }).max(max, { error });
}

/** Both ends included. */
export function number(min: number, max: number) {
  const error = `a number from ${min} to ${max}`;
  return z.number({ error }).min(min, { error }).max(max, { error });
}

/** (0, 1] */
export function fraction() {
  const error = 'a number above 0 and at most 1';
  return z.number({ error }).gt(0, { error }).max(1, { error });
}

/** A boolean of a JSON body; words and numbers are none. */
export function flag() {
  return z.boolean({ error: 'true or false' });
}

/** A fixed word, as `object` fields are. */
export function word<const T extends string>(value: T) {
  return z.literal(value, { error: JSON.stringify(value) });
}

/** A whole number in a query string. */
export function integerParameter(min: number, max: number) {
  const error = `a whole number from ${min} to ${max}`;
  return z
    .string({ error })
    .regex(/^\d{1,16}$/, { error })
    .transform(Number)
    .pipe(integer(min, max));
}

/** The query string of a route that takes no parameters: any is refused. */
export const noParameters = z.strictObject({});

/** The keepRatio that a stored context is asked with; undefined: what it was stored with. */
export function usedKeepRatio() {
  return fraction()
    .optional()
    .openapi({
      description:
        'Use less of the stored cache than was kept; never more, and not less of one whose ' +
        'method keeps all: its pairs have no order.',
      example: 0.2,
    });
}
