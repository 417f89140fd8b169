import { isDeadlineExceeded } from '../core/deadline.ts';
import { untilAborted } from '../core/until-aborted.ts';

/** What happens when the parts of a body end by an error, after the response began. */
export interface ByteStreamOptions {
  /** The request's: when its deadline passes, the body ends by an error. */
  readonly signal: AbortSignal;
  readonly onError: (error: unknown) => void;
  /**
   * Ends the connection, which a client can tell from the end of the body. Undefined where there
   * is none: then the stream fails.
   */
  readonly breakOff: (() => void) | undefined;
  /** Told when the response begins; calls what it returns when it ends, however it ends. */
  readonly onBegin: () => () => void;
}

/**
 * The parts as a response body, each taken when the client has room for it. The first one is
 * waited for, so that an error before it is an ordinary problem (thrown).
 */
export async function byteStream(
  parts: AsyncGenerator<Uint8Array>,
  options: ByteStreamOptions,
): Promise<ReadableStream<Uint8Array>> {
  const { signal } = options;
  let next = await untilAborted(parts.next(), signal);
  const stream = new BodyEnd(options);
  return new ReadableStream<Uint8Array>(
    {
      start(controller) {
        stream.failWith((error) => {
          // The HTTP adapter would print the error of a stream that fails, past the log.
          if (options.breakOff === undefined) controller.error(error);
          else controller.close();
          void parts.return(undefined);
        });
      },
      async pull(controller) {
        if (next.done === true) {
          stream.end();
          controller.close();
          return;
        }
        controller.enqueue(next.value);
        try {
          next = await parts.next();
        } catch (error) {
          stream.fail(error);
        }
      },
      async cancel() {
        stream.end();
        await parts.return(undefined);
      },
    },
    { highWaterMark: 1 },
  );
}

/** How a body ends: once, by its last part, by an error, or by the request's deadline. */
class BodyEnd {
  readonly #options: ByteStreamOptions;
  readonly #ended: () => void;
  #close: (error: unknown) => void = () => undefined;
  #over = false;

  constructor(options: ByteStreamOptions) {
    this.#options = options;
    this.#ended = options.onBegin();
    options.signal.addEventListener('abort', this.#abort);
  }

  /** @param close ends the stream itself after an error */
  failWith(close: (error: unknown) => void): void {
    this.#close = close;
  }

  end(): void {
    this.#over = true;
    this.#options.signal.removeEventListener('abort', this.#abort);
    this.#ended();
  }

  fail(error: unknown): void {
    if (this.#over) return;
    this.end();
    this.#options.onError(error);
    this.#options.breakOff?.();
    this.#close(error);
  }

  /** A client that goes away cancels the stream by itself. */
  readonly #abort = (): void => {
    const { reason } = this.#options.signal;
    if (isDeadlineExceeded(reason)) this.fail(reason);
  };
}
