import { asReadonceError, ReadonceError } from '../core/errors.ts';
import type { Logger } from '../observability/logger.ts';
import type { EngineReply } from './protocol.ts';

/** How an engine process answers, and what it ends by. */
export interface RequestsOptions {
  readonly logger: Logger;
  readonly reply: (message: EngineReply) => void;
  /** Whether an error tells of a device that this process can no longer use. */
  readonly isDeviceLost: (error: unknown) => boolean;
  /** Ends the process at once, with an exit status. */
  readonly exit: (status: number) => void;
}

/** The requests that an engine process works on. */
export class Requests {
  readonly #options: RequestsOptions;
  readonly #cancellations = new Map<number, AbortController>();

  constructor(options: RequestsOptions) {
    this.#options = options;
  }

  /**
   * Runs a request and sends its result or error. When the device is lost, every later request
   * would fail, too: the process ends, and the server starts another one.
   */
  async serve(requestId: number, run: (signal: AbortSignal) => unknown): Promise<void> {
    const { logger, reply } = this.#options;
    const cancellation = new AbortController();
    this.#cancellations.set(requestId, cancellation);
    try {
      const result = await run(cancellation.signal);
      reply({ kind: 'result', requestId, result });
    } catch (error) {
      if (this.#options.isDeviceLost(error)) {
        logger.fatal({ err: error, requestId }, 'device lost');
        this.#options.exit(1);
        return;
      }
      const isOurs = error instanceof ReadonceError || cancellation.signal.aborted;
      if (!isOurs) logger.error({ err: error, requestId }, 'engine request failed');
      reply({ kind: 'error', requestId, error: asReadonceError(error).toJSON() });
    } finally {
      this.#cancellations.delete(requestId);
    }
  }

  cancel(requestId: number): void {
    this.#cancellations.get(requestId)?.abort();
  }

  cancelAll(): void {
    for (const cancellation of this.#cancellations.values()) cancellation.abort();
  }
}
