import { freemem } from 'node:os';

/** Fewer contexts than fit into this are not worth keeping. */
const leastBytes = 256 * 2 ** 20;

/**
 * Host memory for loaded contexts: half of what is free now, in this process's container if it is
 * in one.
 * @param freeBytes for tests
 */
export function hostPoolBytes(freeBytes = availableBytes()): number {
  return Math.max(leastBytes, Math.floor(freeBytes / 2));
}

/** A container's bound counts only if it has one: without, Node says 0 or more than there is. */
function availableBytes(): number {
  const bound = process.constrainedMemory();
  const free = freemem();
  return bound > 0 ? Math.min(free, bound - process.memoryUsage.rss()) : free;
}
