import type { OpenAiError } from './schemas/chat.ts';
import type { Problem } from './schemas/problem.ts';

/** Below it errors are OpenAI's, since its clients read no problems. */
const openAiPrefix = '/v1/';

/** Whether the clients of a path expect errors in OpenAI's envelope. */
export function speaksOpenAi(path: string): boolean {
  return path.startsWith(openAiPrefix);
}

/** Statuses with a type of their own; others are `invalid_request_error` or `server_error`. */
const types: ReadonlyMap<number, string> = new Map([
  [401, 'authentication_error'],
  [403, 'permission_error'],
  [429, 'rate_limit_error'],
]);

/** A problem in OpenAI's envelope: the first field that was refused is its `param`. */
export function openAiError({ status, detail, code, errors }: Problem): OpenAiError {
  const param = errors?.[0]?.path ?? null;
  return {
    error: {
      message: detail,
      type: types.get(status) ?? (status < 500 ? 'invalid_request_error' : 'server_error'),
      param,
      code: code === 'not_found' && param === 'model' ? 'model_not_found' : code,
    },
  };
}
