import type { Closeable } from './closeable.ts';

/**
 * What an owner is made of, part by part. They are closed the other way round, each of them though
 * another one fails.
 */
export class Made implements Closeable {
  readonly #parts: Closeable[] = [];

  /** Takes a part over. */
  add<T extends Closeable>(part: T): T {
    this.#parts.push(part);
    return part;
  }

  /**
   * Gives up what is half-made. What failed is what the caller should hear of: errors of closing
   * are not told.
   */
  abandon(): void {
    try {
      this.close();
    } catch {
      // See above.
    }
  }

  /** @throws what the first part failed with, after all are closed */
  close(): void {
    const errors: unknown[] = [];
    for (const part of this.#parts.splice(0).reverse()) {
      try {
        part.close();
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw errors[0];
  }
}
