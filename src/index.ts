/** The typed client: everything that a program needs to talk to a running server. */
export { createClient } from './client/client.ts';
export type {
  ClientOptions,
  PutOptions,
  ReadonceClient,
  SessionsClient,
  WaitReadyOptions,
} from './client/client.ts';
export type * from './client/types.ts';
export { ReadonceError } from './core/errors.ts';
export type { ErrorCode } from './core/errors.ts';
