import { describe, expect, it } from 'vitest';
import { ReadonceError } from '../../src/core/errors.ts';
import type { EngineReply } from '../../src/engine/protocol.ts';
import { Requests } from '../../src/engine/requests.ts';
import { createLogger } from '../../src/observability/logger.ts';

function open(isDeviceLost: (error: unknown) => boolean = () => false) {
  const replies: EngineReply[] = [];
  const exits: number[] = [];
  const lines: string[] = [];
  const logger = createLogger({ level: 'error', stream: { write: (line) => lines.push(line) } });
  const requests = new Requests({
    logger,
    reply: (message) => replies.push(message),
    isDeviceLost,
    exit: (status) => exits.push(status),
  });
  return { requests, replies, exits, lines };
}

describe('a request of an engine process', () => {
  it('is answered with its result, or its error', async () => {
    const { requests, replies, exits, lines } = open();
    await requests.serve(1, () => Promise.resolve('done'));
    await requests.serve(2, () => {
      throw new ReadonceError('not_found', 'none');
    });
    await requests.serve(3, () => Promise.reject(new TypeError('broken')));
    expect(replies).toMatchObject([
      { kind: 'result', requestId: 1, result: 'done' },
      { kind: 'error', requestId: 2, error: { code: 'not_found' } },
      { kind: 'error', requestId: 3, error: { code: 'internal', message: 'broken' } },
    ]);
    expect(exits).toEqual([]);
    expect(lines).toHaveLength(1);
  });

  it('ends the process when it lost the device, and the log says why', async () => {
    const lost = new ReadonceError('internal', 'an illegal address', { details: { status: 700 } });
    const { requests, replies, exits, lines } = open((error) => error === lost);
    await requests.serve(1, () => Promise.reject(lost));
    expect(exits).toEqual([1]);
    expect(replies).toEqual([]);
    expect(lines.map((line) => JSON.parse(line) as unknown)).toMatchObject([
      { msg: 'device lost', requestId: 1, err: { message: 'an illegal address' } },
    ]);
  });

  it('can be given up', async () => {
    const { requests } = open();
    const signals: AbortSignal[] = [];
    const run = (requestId: number) =>
      requests.serve(requestId, (signal) => {
        signals.push(signal);
        return new Promise((resolve) => {
          signal.addEventListener('abort', resolve);
        });
      });
    const served = [run(1), run(2)];
    requests.cancel(2);
    expect(signals.map(({ aborted }) => aborted)).toEqual([false, true]);
    requests.cancelAll();
    await Promise.all(served);
    requests.cancel(1);
  });
});
