/** What loading tells a logger; pino's loggers fit. */
export interface ModelLog {
  readonly info: (fields: object, message: string) => void;
  readonly warn: (fields: object, message: string) => void;
}
