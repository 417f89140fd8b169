import { destination, pino, stdTimeFunctions } from 'pino';
import type { DestinationStream, Logger as PinoLogger } from 'pino';

/** pino's: fields first, then a static message. */
export type Logger = PinoLogger;

/** What `READONCE_LOG_LEVEL` may be, quietest first. */
export const logLevels = ['silent', 'fatal', 'error', 'warn', 'info', 'debug', 'trace'] as const;
/** The least severe level that is written. */
export type LogLevel = (typeof logLevels)[number];

/** How much is logged, and where to. */
export interface LoggerOptions {
  readonly level: LogLevel;
  /** Where lines go; default stderr, since stdout has only the ready line. */
  readonly stream?: DestinationStream;
}

/**
 * A logger that writes one JSON object a line. Messages are static, facts are fields; document
 * text, query text and keys are never logged.
 */
export function createLogger(options: LoggerOptions): Logger {
  return pino(
    { level: options.level, base: null, timestamp: stdTimeFunctions.isoTime },
    // Synchronous: a process that dies must not take its last lines with it.
    options.stream ?? destination({ dest: 2, sync: true }),
  );
}
