/** The part of autocannon 9 that is used here; it ships no types. */
declare module 'autocannon' {
  import type { EventEmitter } from 'node:events';

  namespace autocannon {
    interface Request {
      readonly method: string;
      readonly path: string;
      readonly headers: Readonly<Record<string, string>>;
      readonly body: string;
    }

    interface RequestSource<Context> {
      /** Called just before a request is sent. */
      readonly setupRequest: (request: Request, context: Context) => Request;
      /** Called with a whole response, before the client's next request is made. */
      readonly onResponse: (
        status: number,
        body: string,
        context: Context,
        headers: Readonly<Record<string, string>>,
      ) => void;
    }

    interface Options<Context> {
      readonly url: string;
      readonly connections: number;
      /** Seconds. */
      readonly duration: number;
      /** Seconds a response may take. */
      readonly timeout: number;
      /** Milliseconds between samples, which is also how soon a stop takes effect. */
      readonly sampleInt: number;
      readonly requests: readonly RequestSource<Context>[];
    }

    /** Emits `reqError` with an Error for a broken connection and for a timeout. */
    interface Instance extends EventEmitter {
      stop(): void;
    }
  }

  function autocannon<Context>(
    options: autocannon.Options<Context>,
    done: (error: Error | null) => void,
  ): autocannon.Instance;

  export = autocannon;
}
