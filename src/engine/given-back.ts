import { untilAborted } from '../core/until-aborted.ts';

/** Counts what is given back, for those who wait until something is. */
export class GivenBack {
  readonly #waiting = new Set<() => void>();
  #count = 0;

  get count(): number {
    return this.#count;
  }

  add(): void {
    this.#count++;
    for (const resolve of this.#waiting) resolve();
  }

  /**
   * Settles once there is more than `count`.
   * @throws the signal's reason if it is aborted before
   */
  async beyond(count: number, signal: AbortSignal): Promise<void> {
    if (this.#count > count) return;
    let resolve = (): void => undefined;
    const given = new Promise<void>((settle) => {
      resolve = settle;
      this.#waiting.add(settle);
    });
    try {
      await untilAborted(given, signal);
    } finally {
      this.#waiting.delete(resolve);
    }
  }
}
