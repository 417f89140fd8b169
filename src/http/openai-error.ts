import type { OpenAiError } from './schemas/chat.ts';
import type { Problem } from './schemas/problem.ts';

/** Below it errors are OpenAI's, too, since its clients read no problems. */
const openAiPrefix = '/v1/';

/** Whether the clients of a path look for OpenAI's `error`. */
export function speaksOpenAi(path: string): boolean {
  return path.startsWith(openAiPrefix);
}

/** Statuses with a type of their own; others are `invalid_request_error` or `server_error`. */
const types: ReadonlyMap<number, string> = new Map([
  [401, 'authentication_error'],
  [403, 'permission_error'],
  [429, 'rate_limit_error'],
]);

/**
 * A problem with OpenAI's `error` beside its fields: the first field that was refused is its
 * `param`.
 */
export function openAiError(problem: Problem): OpenAiError {
  const { status, detail, code, errors } = problem;
  const param = errors?.[0]?.path ?? null;
  return {
    ...problem,
    error: {
      message: detail,
      type: types.get(status) ?? (status < 500 ? 'invalid_request_error' : 'server_error'),
      param,
      code: code === 'not_found' && param === 'model' ? 'model_not_found' : code,
    },
  };
}
