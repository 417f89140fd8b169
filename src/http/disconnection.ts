import { ReadonceError } from '../core/errors.ts';

/** What proxies log for a request whose client has gone: nobody is left to get an answer. */
const clientClosedRequest = 499;

/**
 * Why a request's work stops whose client has gone. The code is for whoever knows only codes: no
 * client is left to see it.
 */
export class Disconnection extends ReadonceError {
  /** @param cause what told of it: the HTTP adapter's reason, or how the body broke off */
  constructor(cause: unknown) {
    super(
      'invalid_argument',
      'Expected the client to wait for the answer but it closed the connection.',
      { cause },
    );
    this.name = 'Disconnection';
  }
}

/**
 * Whether something was thrown since the client has gone, by whoever waited for the request's
 * signal or its body. What else goes wrong meanwhile is not hidden by it.
 */
export function isDisconnection(thrown: unknown): thrown is Disconnection {
  return thrown instanceof Disconnection;
}

/** What is left of a request whose client has gone: a status for the log and the metrics. */
export function disconnectedResponse(): Response {
  return new Response(null, { status: clientClosedRequest });
}
