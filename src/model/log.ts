/** What loading tells a logger; pino's loggers fit. */
export interface ModelLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}
