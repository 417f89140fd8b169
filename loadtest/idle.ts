import { setTimeout as sleep } from 'node:timers/promises';
import { ReadonceError } from '../src/core/errors.ts';

const pollMs = 100;
const idleTimeoutMs = 60_000;

/** The value of a metric without labels in Prometheus's text format; undefined if it has none. */
export function metricValue(page: string, name: string): number | undefined {
  const line = page.split('\n').find((one) => one.startsWith(`${name} `));
  return line === undefined ? undefined : Number(line.slice(name.length + 1));
}

/** Queries that run or wait, as the server's metrics say. */
export async function runningQueries(url: string): Promise<number> {
  const response = await fetch(new URL('/metrics', url));
  return metricValue(await response.text(), 'readonce_running_queries') ?? Number.NaN;
}

/**
 * Resolves when no query runs or waits, as is so soon after all clients have left.
 * @throws ReadonceError `deadline_exceeded` when places are not given back within a minute
 */
export async function untilIdle(url: string): Promise<void> {
  const deadline = performance.now() + idleTimeoutMs;
  for (;;) {
    const running = await runningQueries(url);
    if (running === 0) return;
    if (performance.now() > deadline) {
      throw new ReadonceError(
        'deadline_exceeded',
        `Expected no running queries ${idleTimeoutMs / 1000} seconds after the last client left ` +
          `but got ${running}.`,
      );
    }
    await sleep(pollMs);
  }
}
