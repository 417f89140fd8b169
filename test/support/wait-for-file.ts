import { existsSync } from 'node:fs';

const pollMs = 5;
const longestMs = 30_000;

/** Blocks until a file is there: for those that hold a lock, or whose turn must not end. */
export function waitForFile(path: string): void {
  const limitMs = performance.now() + longestMs;
  while (!existsSync(path)) {
    if (performance.now() > limitMs) throw new Error(`Expected a file ${path} to appear`);
    blockFor(pollMs);
  }
}

/** Blocks the thread. */
export function blockFor(durationMs: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, durationMs);
}
