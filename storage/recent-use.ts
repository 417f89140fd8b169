import type { StoredContext } from '../src/core/context.ts';
import { findContext, intact, putUsage } from './catalogue.ts';
import type { Environment } from './environment.ts';

/** How long a use may be known to this process only. */
const flushAfterMs = 5000;

/** What went wrong while uses were written down; they are tried again. */
type Warn = (fields: Readonly<Record<string, unknown>>, message: string) => void;

/**
 * When contexts were last used, as far as it is not on disk yet: writing it down syncs, and nothing
 * but the order of removal depends on it.
 */
export class RecentUse {
  readonly #env: Environment;
  readonly #warn: Warn;
  readonly #usedAtMs = new Map<string, number>();
  #timer: NodeJS.Timeout | undefined;

  constructor(env: Environment, warn: Warn) {
    this.#env = env;
    this.#warn = warn;
  }

  /** See `ContextStore.touch`. */
  note(id: string, usedAtMs: number): void {
    this.#usedAtMs.set(id, Math.max(usedAtMs, this.#usedAtMs.get(id) ?? 0));
    this.#timer ??= setTimeout(() => this.flush(), flushAfterMs).unref();
  }

  /** The context as it is with the uses that are not on disk. */
  apply(stored: StoredContext): StoredContext {
    const usedAtMs = this.#usedAtMs.get(stored.record.id) ?? 0;
    const { usage } = stored;
    if (usedAtMs <= usage.lastUsedAtMs) return stored;
    return { ...stored, usage: { ...usage, lastUsedAtMs: usedAtMs } };
  }

  /** Writes everything down, in one transaction. */
  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#usedAtMs.size === 0) return;
    const env = this.#env;
    try {
      env.transact(() => {
        for (const id of this.#usedAtMs.keys()) {
          const stored = intact(() => findContext(env, id)?.stored);
          if (stored !== undefined) putUsage(env, stored, this.apply(stored).usage);
        }
      }, 'ordered');
      this.#usedAtMs.clear();
    } catch (error) {
      this.#warn({ err: error }, 'could not write down when contexts were used');
    }
  }
}
