import { ReadonceError } from '../core/errors.ts';

/** An `invalid_argument` that names the field it is about, for the problem's `errors`. */
export function invalidArgument(path: string, message: string): ReadonceError {
  return new ReadonceError('invalid_argument', message, { details: { path } });
}
