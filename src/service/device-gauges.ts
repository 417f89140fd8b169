import { untilAborted } from '../core/until-aborted.ts';
import type { ServiceDeps } from './deps.ts';

/** An engine answers between two pieces of work; whoever reads metrics does not wait longer. */
const patienceMs = 2000;

/** Keeps the metrics of the device's memory up to date for whoever reads them. */
export class DeviceGauges {
  readonly #deps: Pick<ServiceDeps, 'engine' | 'metrics' | 'logger'>;

  constructor(deps: Pick<ServiceDeps, 'engine' | 'metrics' | 'logger'>) {
    this.#deps = deps;
  }

  /**
   * Call before the metrics are read. An engine that is busy leaves the old figures; one without a
   * device of its own, or that is not running, has none.
   */
  async update(): Promise<void> {
    const { engine, metrics, logger } = this.#deps;
    const gauge = metrics.deviceMemoryBytes;
    if (engine.state !== 'ready' || engine.info?.device === 'cpu') {
      gauge.reset();
      return;
    }
    try {
      const memory = await untilAborted(engine.deviceMemory(), AbortSignal.timeout(patienceMs));
      if (memory === undefined) return;
      gauge.set({ state: 'used' }, memory.totalBytes - memory.freeBytes);
      gauge.set({ state: 'total' }, memory.totalBytes);
    } catch (error) {
      logger.debug({ err: error }, 'could not ask for the memory of the device');
    }
  }
}
