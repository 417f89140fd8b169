import { untilAborted } from '../core/until-aborted.ts';

/** In which line somebody waits, and for whom. */
export interface QueuePlace {
  readonly key: string;
  readonly tenant: string;
}

interface Waiting {
  readonly tenant: string;
  readonly enter: () => void;
}

interface Line {
  readonly waiting: Waiting[];
  /** Tenants that had a turn since the line formed, the latest last. */
  readonly served: Set<string>;
}

/**
 * One at a time for each key: a session's questions, documents to be read, prompts to be read.
 * Different keys do not wait for each other. Tenants take turns, so that nobody waits for more than
 * one turn of each of the others; a tenant's own come in order.
 */
export class KeyedQueue {
  /** Of the keys whose turn somebody has. */
  readonly #lines = new Map<string, Line>();

  /**
   * Waits for a turn, then runs `use`; others wait until it settles.
   * @throws the signal's reason if it is aborted while waiting, at once and without running `use`
   */
  async run<T>(
    { key, tenant }: QueuePlace,
    use: () => Promise<T>,
    signal: AbortSignal,
  ): Promise<T> {
    signal.throwIfAborted();
    const formed = this.#lines.get(key);
    const line = formed ?? { waiting: [], served: new Set() };
    if (formed === undefined) this.#lines.set(key, line);
    else await this.#turn(key, { line, tenant }, signal);
    // Added again, it is the latest.
    line.served.delete(tenant);
    line.served.add(tenant);
    try {
      return await use();
    } finally {
      this.#next(key, line);
    }
  }

  async #turn(
    key: string,
    { line, tenant }: { readonly line: Line; readonly tenant: string },
    signal: AbortSignal,
  ): Promise<void> {
    let enter = (): void => undefined;
    const entered = new Promise<void>((resolve) => {
      enter = resolve;
    });
    const waiting = { tenant, enter };
    line.waiting.push(waiting);
    try {
      await untilAborted(entered, signal);
    } catch (error) {
      const index = line.waiting.indexOf(waiting);
      if (index !== -1) line.waiting.splice(index, 1);
      // It got its turn in the same moment.
      else this.#next(key, line);
      throw error;
    }
  }

  /** Gives the turn to the tenant that had none for longest, or ends the line. */
  #next(key: string, line: Line): void {
    const { waiting, served } = line;
    const newcomer = waiting.find(({ tenant }) => !served.has(tenant));
    const longestAgo = [...served].find((each) => waiting.some(({ tenant }) => tenant === each));
    const next = newcomer ?? waiting.find(({ tenant }) => tenant === longestAgo);
    if (next === undefined) {
      this.#lines.delete(key);
      return;
    }
    waiting.splice(waiting.indexOf(next), 1);
    next.enter();
  }
}
