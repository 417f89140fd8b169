/** What happens when the parts of a body end by an error, after the response began. */
export interface ByteStreamOptions {
  readonly onError: (error: unknown) => void;
  /**
   * Ends the connection, which a client can tell from the end of the body. Undefined where there
   * is none: then the stream fails.
   */
  readonly breakOff: (() => void) | undefined;
}

/**
 * The parts as a response body, each taken when the client has room for it. The first one is
 * waited for, so that an error before it is an ordinary problem (thrown).
 */
export async function byteStream(
  parts: AsyncGenerator<Uint8Array>,
  { onError, breakOff }: ByteStreamOptions,
): Promise<ReadableStream<Uint8Array>> {
  let next = await parts.next();
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        if (next.done === true) {
          controller.close();
          return;
        }
        controller.enqueue(next.value);
        try {
          next = await parts.next();
        } catch (error) {
          onError(error);
          // The HTTP adapter would print the error of a stream that fails, past the log.
          breakOff?.();
          if (breakOff === undefined) controller.error(error);
          else controller.close();
        }
      },
      async cancel() {
        await parts.return(undefined);
      },
    },
    { highWaterMark: 1 },
  );
}
