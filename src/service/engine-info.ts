import { ReadonceError } from '../core/errors.ts';
import type { Engine, EngineInfo } from '../engine/protocol.ts';

/** @throws ReadonceError `engine_unavailable` if no engine has started yet to say what it runs */
export function engineInfo({ info }: Pick<Engine, 'info'>): EngineInfo {
  if (info !== undefined) return info;
  throw new ReadonceError(
    'engine_unavailable',
    'Expected an engine that has told its model but none has started yet. Try again soon.',
    { retryAfterSeconds: 1 },
  );
}
