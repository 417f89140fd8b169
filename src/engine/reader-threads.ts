import { availableParallelism } from 'node:os';

/** On small machines the cores have better to do than to wait for a disk. */
const coresOfReader = 4;
/** What these read is about what one thread can take from them. */
const mostReaders = 4;

/** Threads that the engine's store reads large contexts with; 0 on a machine of few cores. */
export function readerThreads(cores = availableParallelism()): number {
  return Math.min(mostReaders, Math.floor(cores / coresOfReader));
}
