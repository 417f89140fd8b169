import type { ServiceDeps } from './deps.ts';

/** Figures younger than this are not counted anew: counting reads the record of every context. */
const maxAgeMs = 30_000;

/** Keeps the metrics of the store up to date for whoever reads them. */
export class StoreGauges {
  readonly #deps: Pick<ServiceDeps, 'store' | 'clock' | 'metrics' | 'logger'>;
  #countedAtMs = -Infinity;

  constructor(deps: Pick<ServiceDeps, 'store' | 'clock' | 'metrics' | 'logger'>) {
    this.#deps = deps;
  }

  /** Call before the metrics are read. If the store cannot be counted, the old figures stay. */
  update(): void {
    const { store, clock, metrics, logger } = this.#deps;
    if (clock.monotonicMs() - this.#countedAtMs < maxAgeMs) return;
    this.#countedAtMs = clock.monotonicMs();
    try {
      const { contexts, damaged, quarantined, unfinished, usedBytes, freeBytes } = store.stats();
      metrics.storeContexts.set({ state: 'stored' }, contexts);
      metrics.storeContexts.set({ state: 'damaged' }, damaged);
      metrics.storeContexts.set({ state: 'quarantined' }, quarantined.contexts);
      metrics.storeContexts.set({ state: 'unfinished' }, unfinished);
      metrics.storeBytes.set({ state: 'used' }, usedBytes);
      metrics.storeBytes.set({ state: 'free' }, freeBytes);
      metrics.storeBytes.set({ state: 'quarantined' }, quarantined.bytes);
    } catch (error) {
      logger.warn({ err: error }, 'could not count the store');
    }
  }
}
